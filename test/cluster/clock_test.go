//go:build linux

package cluster

import (
	"bytes"
	"debug/elf"
	encoding "encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wallClock is what replaces clock_gettime in the vDSO of a process on amd64, before the number of seconds that it adds to CLOCK_REALTIME:
//
//	mov eax, 228; syscall; test edi, edi; jnz +7; add qword ptr [rsi], SECONDS; ret
//
// No clock of a process can be set, time namespaces have monotonic clocks only, and a static binary preloads nothing. Go asks the vDSO for the time.
var wallClock = []byte{0xb8, 0xe4, 0, 0, 0, 0x0f, 0x05, 0x85, 0xff, 0x75, 0x07, 0x48, 0x81, 0x06}

// needClocks ends the test on machines whose processes' clocks cannot be shifted.
func needClocks(t *testing.T) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skipf("the clock of a process is shifted by code of amd64, this is %s", runtime.GOARCH)
	}
}

// shiftClock has the node's process see another time of day, by whole seconds. Its monotonic clocks, by which it measures leases, stay.
func (m *machine) shiftClock(by time.Duration) {
	m.t.Helper()
	m.signal(syscall.SIGSTOP)
	defer m.signal(syscall.SIGCONT)
	if err := shiftClock(m.cmd.Process.Pid, int32(by/time.Second)); err != nil {
		m.t.Fatalf("shift the clock of %s: %v", m.name, err)
	}
}

func shiftClock(pid int, seconds int32) error {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	var from, to int64
	for l := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(l), "[vdso]") {
			if _, err := fmt.Sscanf(l, "%x-%x", &from, &to); err != nil {
				return err
			}
		}
	}
	if from == 0 {
		return fmt.Errorf("process %d has no vDSO", pid)
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	image := make([]byte, to-from)
	if _, err := io.ReadFull(io.NewSectionReader(mem, from, to-from), image); err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return err
	}
	for _, s := range symbols {
		if s.Name != "__vdso_clock_gettime" {
			continue
		}
		code := append(encoding.LittleEndian.AppendUint32(bytes.Clone(wallClock), uint32(seconds)), 0xc3)
		_, err := mem.WriteAt(code, from+int64(s.Value))
		return err
	}
	return fmt.Errorf("the vDSO of process %d does not tell the time", pid)
}
