package cloudimport

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/vfs"
)

func TestPlan(t *testing.T) {
	long := strings.Repeat("n", 256)
	for _, c := range []struct {
		prefix string
		key    string
		size   uint64
		want   string // path; with '/' at its end: a directory; "!" and words: refused
	}{
		{"", "a", 1, "/to/a"},
		{"", "a/b/c", 1, "/to/a/b/c"},
		{"", "ä/ö", 1, "/to/ä/ö"},
		{"", "a\nb", 1, "/to/a\nb"},
		{"", "d/", 0, "/to/d/"},
		{"", "d/", 5, "!has content"},
		{"", "/a", 1, "!empty name"},
		{"", "a//b", 1, "!empty name"},
		{"", "a//", 0, "!empty name"},
		{"", "/", 0, "!empty name"},
		{"", "..", 1, "!leads elsewhere"},
		{"", "a/../b", 1, "!leads elsewhere"},
		{"", "a/./b", 1, "!leads elsewhere"},
		{"", "a/..", 1, "!leads elsewhere"},
		{"", "a\x00b", 1, "!NUL"},
		{"", "a\xff", 1, "!UTF-8"},
		{"", long, 1, "!255"},
		{"", "a/" + long + "/b", 1, "!255"},
		{"", strings.Repeat("d/", 600), 0, "!1024"},
		{"", "", 1, "!empty"},
		{"photos/", "photos/2026/x", 1, "/to/2026/x"},
		{"photos/", "photos/", 0, "/to/"},
		{"photos/20", "photos/2026/x", 1, "/to/2026/x"},
		{"photos", "photos/x", 1, "/to/photos/x"},
		{"photos/", "other", 1, "!prefix"},
		{"../", "../x", 1, "/to/x"},
		{"../", "../../x", 1, "!leads elsewhere"},
	} {
		it := NewPlanner("/to", c.prefix).Next(Object{Key: c.key, Size: c.size})
		got := string(it.Path)
		if it.Dir {
			got += "/"
		}
		if why, refused := strings.CutPrefix(c.want, "!"); refused {
			if it.Path != "" || !strings.Contains(it.Refuse, why) {
				t.Errorf("%q below %q: %q %q, want it refused for %q", c.key, c.prefix, it.Path, it.Refuse, why)
			}
		} else if got != c.want || it.Refuse != "" {
			t.Errorf("%q below %q: %q %q, want %q", c.key, c.prefix, got, it.Refuse, c.want)
		}
	}
}

// Whatever keys there are: paths are below the destination, no two are the same, and none is below a file.
func TestPlansAreTrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOf(rapid.StringOfN(rapid.SampledFrom([]rune("a./!b\x00")), 0, 7, -1)).Draw(t, "keys")
		slices.Sort(keys)
		keys = slices.Compact(keys)
		p := NewPlanner("/to", "")
		paths := map[files.Path]bool{} // whether it is a file
		for _, k := range keys {
			it := p.Next(Object{Key: k})
			if (it.Refuse == "") != (it.Path != "") {
				t.Fatalf("%q: %+v", k, it)
			}
			if it.Refuse != "" {
				continue
			}
			if clean, err := files.ParsePath(string(it.Path)); err != nil || clean != it.Path || it.Path != "/to" && !strings.HasPrefix(string(it.Path), "/to/") {
				t.Fatalf("%q leads to %q: %v", k, it.Path, err)
			}
			if _, twice := paths[it.Path]; twice {
				t.Fatalf("%q leads to %q, as another key does", k, it.Path)
			}
			paths[it.Path] = !it.Dir
			for up, _ := it.Path.Split(); up != "/to" && up != "/"; up, _ = up.Split() {
				if paths[up] {
					t.Fatalf("%q leads below %q, which is a file", k, up)
				}
			}
		}
	})
}

func TestDecide(t *testing.T) {
	now := time.Unix(1000, 0)
	file, dir := &vfs.Attr{Type: vfs.TypeFile, Mtime: now}, &vfs.Attr{Type: vfs.TypeDir}
	old, same, young := Item{Object: Object{Modified: now.Add(-time.Second)}}, Item{Object: Object{Modified: now}}, Item{Object: Object{Modified: now.Add(time.Second)}}
	for _, c := range []struct {
		c    Conflict
		it   Item
		old  *vfs.Attr
		want verdict
	}{
		{Skip, young, nil, take}, {Skip, young, file, leave}, {Skip, young, dir, refuse},
		{Overwrite, old, file, take}, {Overwrite, old, dir, refuse},
		{IfNewer, old, file, leave}, {IfNewer, same, file, leave}, {IfNewer, young, file, take}, {IfNewer, young, dir, refuse},
		{Overwrite, Item{Dir: true}, dir, leave}, {Overwrite, Item{Dir: true}, file, refuse}, {Skip, Item{Dir: true}, nil, take},
		{Overwrite, Item{Refuse: "x"}, nil, refuse},
	} {
		if got, why := decide(c.c, &c.it, c.old); got != c.want || got == refuse && why == "" {
			t.Errorf("%s %+v over %+v: %v %q, want %v", c.c, c.it, c.old, got, why, c.want)
		}
	}
}

// However workers finish, and whenever the gateway ends: no object is done again that was written down as done, none is left out, what is written down is bounded, and no
// object that takes long holds the others up.
func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var keys []string
		for i := range rapid.IntRange(0, 2000).Draw(t, "objects") {
			keys = append(keys, fmt.Sprintf("%04d", i))
		}
		deleted := map[string]bool{} // from the bucket
		recorded := map[string]int{} // how often it was done, and written down
		cp := &checkpoint{Format: checkpointFormatNone}
		for over := false; !over; {
			b, err := readCheckpoint(encode(cp))
			if err != nil {
				t.Fatal(err)
			}
			w, err := newWindow(b)
			if err != nil {
				t.Fatal(err)
			}
			var busy []work
			pending := map[string]bool{} // done, and not written down
			i, _ := slices.BinarySearch(keys, w.cursor+"\x00")
			save := func() {
				cp = w.checkpoint()
				for k := range pending {
					recorded[k]++
				}
				clear(pending)
				if n := len(encode(cp)); n > 8<<10 {
					t.Fatalf("a checkpoint of %d bytes", n)
				}
			}
			for crash := false; !crash; {
				switch step := rapid.SampledFrom([]string{"add", "add", "add", "finish", "finish newer ones", "finish newer ones", "save", "save", "delete", "crash"}).Draw(t, "step"); step {
				case "add":
					for range rapid.IntRange(1, 200).Draw(t, "n") {
						if i == len(keys) {
							break
						}
						if len(busy) <= lateMax && w.full() {
							t.Fatalf("the window is full with %d objects under way", len(busy))
						}
						if len(busy) == lateMax { // workers
							break
						}
						if deleted[keys[i]] {
							i++
							continue
						}
						s, was := w.add(keys[i])
						if was != (recorded[keys[i]] > 0) {
							t.Fatalf("%s: done already is %v, it was written down %d times", keys[i], was, recorded[keys[i]])
						}
						if !was {
							busy = append(busy, work{slot: s})
						}
						i++
					}
				case "finish", "finish newer ones": // than one that takes long
					from := 0
					if step != "finish" {
						from = min(1, len(busy))
					}
					for range rapid.IntRange(0, len(busy)-from).Draw(t, "finished") {
						n := rapid.IntRange(from, len(busy)-1).Draw(t, "which")
						w.finish(busy[n].slot)
						pending[busy[n].slot.key] = true
						busy = slices.Delete(busy, n, n+1)
					}
				case "save":
					save()
				case "delete": // while it is under way, and not to be found after a restart
					if len(busy) > 0 {
						deleted[busy[rapid.IntRange(0, len(busy)-1).Draw(t, "deleted")].slot.key] = true
					}
				case "crash":
					crash = true
				}
				if over = i == len(keys) && len(busy) == 0; over {
					save()
					break
				}
			}
		}
		for _, k := range keys {
			if n := recorded[k]; n != 1 && !(n == 0 && deleted[k]) {
				t.Fatalf("%s was done %d times", k, n)
			}
		}
	})
}

// A checkpoint of a release before late objects, and none that is damaged.
func TestCheckpoints(t *testing.T) {
	w, err := newWindow(&checkpoint{Format: checkpointFormatNone, Cursor: []byte("b")})
	if err != nil {
		t.Fatal(err)
	}
	if _, was := w.add("c"); was {
		t.Error("c was not done")
	}
	if c := w.checkpoint(); c.Format != checkpointFormatNone || c.High != nil || string(c.Cursor) != "b" {
		t.Errorf("%+v: a release before late objects cannot read it", c)
	}
	for name, b := range map[string]string{
		"newer":                   `{"format":3}`,
		"marks that are cut":      `{"format":1,"done":"AAAA"}`,
		"late and nowhere":        `{"format":2,"late":"AAAAAAAAAAAAAAAAAAAAAA=="}`,
		"late ones before cursor": `{"format":2,"cursor":"Yg==","high":"YQ==","late":"AAAAAAAAAAAAAAAAAAAAAA=="}`,
	} {
		c, err := readCheckpoint([]byte(b))
		if err == nil {
			_, err = newWindow(c)
		}
		if err == nil {
			t.Errorf("%s: read", name)
		}
	}
}
