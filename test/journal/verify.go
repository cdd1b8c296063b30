//go:build linux

package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxDifferences bounds a report.
const maxDifferences = 40

// lineLimitBytes bounds a line of the journal.
const lineLimitBytes = 1 << 20

// Replay reads a journal into the trees that it says exist, one for each worker.
func Replay(path string) (models []*Model, records int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, lineLimitBytes)
	var h header
	if !s.Scan() {
		return nil, 0, fmt.Errorf("%s is empty", path)
	}
	if err := json.Unmarshal(s.Bytes(), &h); err != nil {
		return nil, 0, fmt.Errorf("%s: header: %w", path, err)
	}
	for range h.Workers {
		models = append(models, NewModel())
	}
	next := make([]int, h.Workers)
	for s.Scan() {
		var r Record
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			return nil, 0, fmt.Errorf("%s: record %d: %w", path, records, err)
		}
		if r.Worker < 0 || r.Worker >= h.Workers || r.N != next[r.Worker]+1 {
			return nil, 0, fmt.Errorf("%s: record %+v is out of order", path, r)
		}
		next[r.Worker]++
		if err := models[r.Worker].Apply(h.Seed, r); err != nil {
			return nil, 0, fmt.Errorf("%s: %w", path, err)
		}
		records++
	}
	return models, records, s.Err()
}

// Verify compares the directory with the journal and returns every difference, up to a limit.
func Verify(dir, journal string) (differences []string, records int, err error) {
	models, records, err := Replay(journal)
	if err != nil {
		return nil, 0, err
	}
	for i, m := range models {
		root := workerDir(dir, i)
		if _, err := os.Lstat(root); err != nil && len(m.names) == 0 {
			continue // it never began
		}
		differences = append(differences, m.compare(root)...)
	}
	if len(differences) > maxDifferences {
		differences = append(differences[:maxDifferences], fmt.Sprintf("and %d more", len(differences)-maxDifferences))
	}
	return differences, records, nil
}

func (m *Model) compare(root string) (differences []string) {
	differ := func(name string, last Record, format string, args ...any) {
		differences = append(differences, fmt.Sprintf("%s/%s: %s; last acknowledged change %+v", filepath.Base(root), name, fmt.Sprintf(format, args...), last))
	}
	inodes := map[uint64]*node{}
	for _, name := range m.list("fdl") {
		n := m.names[name]
		p := filepath.Join(root, name)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			differ(name, n.last, "lstat: %v", err)
			continue
		}
		wantType := map[byte]uint32{'f': unix.S_IFREG, 'd': unix.S_IFDIR, 'l': unix.S_IFLNK}[n.kind]
		if st.Mode&unix.S_IFMT != wantType {
			differ(name, n.last, "type %o, want %o", st.Mode&unix.S_IFMT, wantType)
			continue
		}
		if other := inodes[st.Ino]; other != nil && other != n {
			differ(name, n.last, "is the same file as another name of another file")
		}
		inodes[st.Ino] = n
		if n.kind != 'l' && st.Mode&0o7777 != n.mode {
			differ(name, n.last, "mode %o, want %o", st.Mode&0o7777, n.mode)
		}
		switch n.kind {
		case 'l':
			if target, err := os.Readlink(p); err != nil || target != n.target {
				differ(name, n.last, "target %q, want %q (%v)", target, n.target, err)
			}
		case 'f':
			if int(st.Nlink) != n.links {
				differ(name, n.last, "%d links, want %d", st.Nlink, n.links)
			}
			if int(st.Size) != len(n.data) {
				differ(name, n.last, "size %d, want %d", st.Size, len(n.data))
			}
			got, err := os.ReadFile(p)
			if err != nil {
				differ(name, n.last, "%v", err)
			} else if !bytes.Equal(got, n.data) {
				differ(name, n.last, "%s", firstDifference(got, n.data))
			}
		}
	}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if name != "." && m.names[name] == nil {
			differ(name, Record{}, "listed, but the journal does not know it")
		}
		return nil
	})
	if err != nil {
		differ(".", Record{}, "walk: %v", err)
	}
	return differences
}

func firstDifference(got, want []byte) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			bad := 0
			for j := i; j < min(len(got), len(want)); j++ {
				if got[j] != want[j] {
					bad++
				}
			}
			zeros := 0
			for i+zeros < len(got) && got[i+zeros] == 0 {
				zeros++
			}
			return fmt.Sprintf("content differs from byte %d of %d on, %d bytes in all, %d zeros first", i, len(want), bad, zeros)
		}
	}
	return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
}
