package kclient

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// task is what the host says of one of its threads that is a part of a guest: of the kernel, of its helpers, or one of the empty processes (stubs) in whose memory the kernel runs the guest's programs.
type task struct {
	pid, tid int
	name     string
	state    byte          // as in /proc/PID/stat
	user     uint64        // ticks of 10 ms
	system   uint64        // ticks of 10 ms
	delayed  time.Duration // how long it waited for a processor
}

// tasks lists the threads of a process and of all its descendants; those that end meanwhile may be missing.
func tasks(pid int) []task {
	var all []task
	dirs, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, dir := range dirs {
		tid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		k := task{pid: pid, tid: tid}
		b, err := os.ReadFile(dir + "/stat")
		if err != nil || !k.parseStat(string(b)) {
			continue
		}
		if b, err := os.ReadFile(dir + "/schedstat"); err == nil {
			if f := strings.Fields(string(b)); len(f) > 1 {
				ns, _ := strconv.ParseInt(f[1], 10, 64)
				k.delayed = time.Duration(ns)
			}
		}
		all = append(all, k)
		b, err = os.ReadFile(dir + "/children")
		if err != nil {
			continue
		}
		for _, c := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(c); err == nil {
				all = append(all, tasks(child)...)
			}
		}
	}
	return all
}

func (k *task) parseStat(line string) bool {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return false
	}
	f := strings.Fields(line[end+1:])
	if len(f) < 13 {
		return false
	}
	k.name, k.state = line[open+1:end], f[0][0]
	k.user, _ = strconv.ParseUint(f[11], 10, 64)
	k.system, _ = strconv.ParseUint(f[12], 10, 64)
	return true
}

// starved says whether, between two lists, a guest's tasks waited for a processor for at least half of the time, or one waits for the host's disk.
func starved(before, now []task, between time.Duration) bool {
	was := map[int]time.Duration{}
	for _, k := range before {
		was[k.tid] = k.delayed
	}
	var delayed time.Duration
	for _, k := range now {
		if k.state == 'D' {
			return true
		}
		if d, ok := was[k.tid]; ok {
			delayed += k.delayed - d
		}
	}
	return delayed >= between/2
}

const (
	// diagnosedTasks bounds how many of a guest's tasks are in its diagnosis.
	diagnosedTasks = 60
	// diagnosisRounds is how often it looks where the kernel is, diagnosisPause apart.
	diagnosisRounds = 8
	diagnosisPause  = 20 * time.Millisecond
)

// diagnosis says what the host knows of a guest that gives no sign of life.
func diagnosis(pid int) string {
	var b strings.Builder
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(&b, "load %s\n", strings.TrimSpace(string(load)))
	for i, last := 0, ""; i < diagnosisRounds; i++ {
		at := where(pid, pid) + " " + proc(pid, pid, "wchan")
		if at != last {
			fmt.Fprintf(&b, "kernel: %s\n", at)
		}
		last = at
		time.Sleep(diagnosisPause)
	}
	for i, k := range tasks(pid) {
		if i >= diagnosedTasks {
			b.WriteString("and more\n")
			break
		}
		fmt.Fprintf(&b, "%d/%d %s %c, user %d, system %d ticks, waited %v for a processor, in %s, syscall %s\n",
			k.pid, k.tid, k.name, k.state, k.user, k.system, k.delayed.Round(time.Millisecond), proc(k.pid, k.tid, "wchan"), where(k.pid, k.tid))
		for line := range strings.Lines(proc(k.pid, k.tid, "status")) {
			for _, want := range []string{"SigPnd", "ShdPnd", "SigBlk", "SigCgt", "TracerPid"} {
				if strings.HasPrefix(line, want) {
					b.WriteString(" " + strings.Join(strings.Fields(line), " "))
				}
			}
		}
		b.WriteByte('\n')
		if stack := proc(k.pid, k.tid, "stack"); stack != "" {
			b.WriteString(stack + "\n")
		}
	}
	timers, _ := os.ReadFile(fmt.Sprintf("/proc/%d/timers", pid))
	fmt.Fprintf(&b, "timers of the kernel:\n%s", timers)
	return b.String()
}

func proc(pid, tid int, file string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/%s", pid, tid, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// where is a task's system call with its arguments, its stack pointer and its place, or "running".
func where(pid, tid int) string { return proc(pid, tid, "syscall") }

// caught says whether a process handles a signal, so that it is not ended by it.
func caught(pid int, signals ...int) bool {
	for line := range strings.Lines(proc(pid, pid, "status")) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			if err != nil {
				return false
			}
			for _, s := range signals {
				if bits&(1<<(s-1)) == 0 {
					return false
				}
			}
			return true
		}
	}
	return false
}
