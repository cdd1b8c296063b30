//go:build linux

package posix

import (
	"os"
	"strings"
	"testing"
)

func TestRandomIOLocally(t *testing.T) {
	for _, base := range []string{t.TempDir(), "/dev/shm"} {
		dir, err := os.MkdirTemp(base, "random-io")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		count, refused, err := RandomIO{Dir: dir, Ops: 5000, Seed: 7}.Run()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%v, not supported: %v", count, refused)
		for _, name := range []string{"write", "read", "truncate", "mmap-write", "mmap-read", "punch", "fallocate", "seek", "copy-range"} {
			if count[name] == 0 {
				t.Errorf("%s: never done", name)
			}
		}
	}
}

// What changes a file behind the verifier's back is found: a byte, the size, an old version of a page.
func TestRandomIOFindsDamage(t *testing.T) {
	damage := map[string]func(f *os.File, size int64) error{
		"a byte": func(f *os.File, size int64) error {
			b := make([]byte, 1)
			if _, err := f.ReadAt(b, size/2); err != nil {
				return err
			}
			b[0] ^= 1
			_, err := f.WriteAt(b, size/2)
			return err
		},
		"the size": func(f *os.File, size int64) error { return f.Truncate(size + 1) },
		"a page of zeros": func(f *os.File, size int64) error {
			_, err := f.WriteAt(make([]byte, 4096), 0)
			return err
		},
	}
	for name, harm := range damage {
		t.Run(name, func(t *testing.T) {
			done := 0 // again and again, as what comes next may overwrite it
			_, _, err := RandomIO{Dir: t.TempDir(), Ops: 3000, Seed: 11, Before: func(op int, files []string) {
				if op%50 != 49 {
					return
				}
				f, err := os.OpenFile(files[0], os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				st, err := f.Stat()
				if err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 4096)
				if n, _ := f.ReadAt(b, 0); n == 4096 && strings.Trim(string(b), "\x00") != "" {
					done++
					if err := harm(f, st.Size()); err != nil {
						t.Fatal(err)
					}
				}
			}}.Run()
			if done == 0 || err == nil || !strings.Contains(err.Error(), "seed 11, operation ") {
				t.Fatalf("damaged %d times, found: %v", done, err)
			}
		})
	}
}
