package bench

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// Promise says where something is when a call was answered.
type Promise string

const (
	Unknown Promise = ""
	Memory  Promise = "memory" // a crash or power cut may lose it
	Disk    Promise = "disk"   // it survives one
)

// Durability is what a target promises.
type Durability struct {
	Names  Promise `json:"names"`  // of a change of names, when it was answered
	Data   Promise `json:"data"`   // of what fsync, COMMIT or an upload has answered
	Losses int     `json:"losses"` // disks or servers that may be lost for good afterwards
	Source string  `json:"source"` // what it was concluded from: "declared", or where it was found
}

// Known reports whether it is a promise at all.
func (d Durability) Known() bool { return d.Names != Unknown && d.Data != Unknown }

// Equal reports whether two promise the same.
func (d Durability) Equal(e Durability) bool {
	return d.Names == e.Names && d.Data == e.Data && d.Losses == e.Losses
}

func (d Durability) String() string {
	if !d.Known() {
		return "unknown"
	}
	return fmt.Sprintf("names in %s when answered, data on %s after fsync, %d disks may be lost (%s)", d.Names, d.Data, d.Losses, d.Source)
}

// ParseDurability reads what somebody declares: names=memory|disk,data=memory|disk,losses=N.
func ParseDurability(s string) (Durability, error) {
	d := Durability{Source: "declared"}
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(part, "=")
		p, ok := Promise(value), value == string(Memory) || value == string(Disk)
		switch n, err := strconv.Atoi(value); {
		case key == "names" && ok:
			d.Names = p
		case key == "data" && ok:
			d.Data = p
		case key == "losses" && err == nil && n >= 0:
			d.Losses = n
		default:
			return d, vfs.Errorf(vfs.KindInvalid, "bench.durability", "%q: write names=memory|disk,data=memory|disk,losses=N", s)
		}
	}
	if !d.Known() {
		return d, vfs.Errorf(vfs.KindInvalid, "bench.durability", "%q says too little: write names=memory|disk,data=memory|disk,losses=N", s)
	}
	return d, nil
}

// onDisk are local file systems whose fsync reaches the disk, unless they were mounted otherwise; inMemory are those that have none.
var (
	onDisk   = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs"}
	inMemory = []string{"tmpfs", "ramfs"}
	lazy     = []string{"nobarrier", "barrier=0", "sync=disabled", "fsync_mode=nobarrier"}
)

// mountDurability concludes what a mount promises from a line of /proc/self/mountinfo. Others than local file systems promise what their
// server does, which nothing here can tell.
func mountDurability(line string) (point string, d Durability) {
	left, right, ok := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if !ok || len(l) < 6 || len(r) < 3 {
		return "", Durability{}
	}
	point, kind := unescapeMount(l[4]), r[0]
	options := strings.Split(l[5]+","+r[2], ",")
	d.Source = kind
	switch {
	case slices.Contains(inMemory, kind):
		d.Names, d.Data = Memory, Memory
	case slices.Contains(onDisk, kind):
		d.Names, d.Data = Memory, Disk
		for _, o := range options {
			if slices.Contains(lazy, o) {
				d.Data, d.Source = Memory, kind+" with "+o
			}
			if o == "sync" || o == "dirsync" {
				d.Names, d.Source = Disk, kind+" with "+o
			}
		}
	}
	return point, d
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// dirDurability is what the file system of a directory promises.
func dirDurability(dir string) (Durability, error) {
	const op = "bench.durability"
	dir, err := filepath.EvalSymlinks(dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return Durability{}, vfs.Wrap(op, err)
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Durability{}, vfs.Wrap(op, err)
	}
	defer f.Close()
	var best string
	var found Durability
	for in := bufio.NewScanner(f); in.Scan(); {
		point, d := mountDurability(in.Text())
		inside := point == "/" || point == dir || strings.HasPrefix(dir, point+"/")
		if point != "" && inside && len(point) >= len(best) { // of equals the last hides those before
			best, found = point, d
		}
	}
	return found, nil
}

// profileDurability is what a cluster of rackfs promises: names are on the disks of a majority of voters, data in all k+m shards.
func profileDurability(profile string) (Durability, error) {
	p, err := placement.ParseProfile(profile)
	if err != nil {
		return Durability{}, err
	}
	return Durability{Names: Disk, Data: Disk, Losses: p.M, Source: "rackfs with profile " + profile}, nil
}
