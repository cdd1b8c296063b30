package fsm

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

var update = flag.Bool("update", false, "write the expected output of the scripts")

// TestScripts runs testdata/scripts. A script is lines of input; what each
// answers stands below it, indented by "= ".
//
//	shard N            a new machine, with file system 1 and origin 1 ("a") if N > 0
//	tiny               a new machine of shard 1 with limits of a few records
//	apply COMMAND      one command in the text form of metapb.Command; time,
//	                   file system and identity are filled in if absent
//	batch              as apply, for the indented lines that follow, as one entry
//	query QUERY        a metapb.Query
//	keys PREFIX        the keys of the state that begin with PREFIX, and their records
//	reopen             forget everything but the store
//
// After every line the invariants of the whole state are checked.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts: ", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			w, g := strings.Split(string(want), "\n"), strings.Split(got, "\n")
			for i := range max(len(w), len(g)) {
				if i >= len(w) || i >= len(g) || w[i] != g[i] {
					t.Fatalf("line %d of the output of %s differs (-update writes it):\n%s", i+1, f, strings.Join(g[i:min(len(g), i+5)], "\n"))
				}
			}
		})
	}
}

func runScript(t *testing.T, text string) string {
	t.Helper()
	return scriptMachines(t, text, func(*rig) {})
}

// scriptMachines runs a script; done gets each of its machines when it ends.
func scriptMachines(t *testing.T, text string, done func(*rig)) string {
	t.Helper()
	var out strings.Builder
	var r *rig
	defer func() {
		if r != nil {
			done(r)
		}
	}()
	answer := func(format string, args ...any) { fmt.Fprintf(&out, "= "+format+"\n", args...) }
	var batch []*metapb.Command
	endBatch := func() {
		if batch != nil {
			for _, res := range r.apply(batch...) {
				answer("%s", result(res))
			}
			batch = nil
		}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "= ") {
			continue
		}
		if !strings.HasPrefix(line, "\t") {
			endBatch()
		}
		fmt.Fprintln(&out, line)
		word, rest, _ := strings.Cut(line, " ")
		if (word == "shard" || word == "tiny") && r != nil {
			done(r)
		}
		switch {
		case line == "" || word[0] == '#':
		case line[0] == '\t':
			batch = append(batch, parse(t, line, new(metapb.Command)))
		case word == "batch":
			batch = []*metapb.Command{}
		case word == "shard" && rest == "0":
			r = newRig(t, Options{MaxLevel: Level})
		case word == "shard":
			r = newNamespaceRig(t, Options{MaxLevel: Level})
		case word == "tiny":
			r = newNamespaceRig(t, Options{MaxLevel: Level, limits: tiny})
		case word == "apply":
			answer("%s", result(r.one(parse(t, rest, new(metapb.Command)))))
		case word == "query":
			res := r.query(parse(t, rest, new(metapb.Query)))
			if res.Kind != 0 {
				answer("%s: %s", vfs.Kind(res.Kind), res.Text)
			} else {
				answer("%s", show(res.ProtoReflect()))
			}
		case word == "keys":
			showKeys(r, rest, answer)
		case word == "reopen":
			r.reopen()
		default:
			t.Fatalf("what is %q?", line)
		}
		if r != nil && batch == nil {
			r.check()
		}
	}
	endBatch()
	return out.String()
}

type decodable interface {
	protoreflect.ProtoMessage
	UnmarshalVT([]byte) error
}

func parse[M protoreflect.ProtoMessage](t *testing.T, text string, m M) M {
	t.Helper()
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return m
}

func result(r *metapb.Result) string {
	if r.Kind != 0 {
		return vfs.Kind(r.Kind).String() + ": " + r.Text
	}
	if s := show(r.ProtoReflect()); s != "{}" {
		return s
	}
	return "ok"
}

// show is the text of a message, always the same for the same message. Times
// are written as seconds.
func show(m protoreflect.Message) string {
	if t, ok := m.Interface().(*metapb.Time); ok {
		if t.Nsec == 0 {
			return fmt.Sprint(t.Sec)
		}
		return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec)
	}
	var parts []string
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		v := m.Get(f)
		if !f.IsList() {
			parts = append(parts, fmt.Sprintf("%s:%s", f.Name(), showValue(f, v)))
			continue
		}
		var items []string
		for j := range v.List().Len() {
			items = append(items, showValue(f, v.List().Get(j)))
		}
		parts = append(parts, fmt.Sprintf("%s:[%s]", f.Name(), strings.Join(items, " ")))
	}
	return "{" + strings.Join(parts, " ") + "}"
}

func showValue(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return show(v.Message())
	case protoreflect.EnumKind:
		return string(f.Enum().Values().ByNumber(v.Enum()).Name())
	case protoreflect.BytesKind:
		if b := v.Bytes(); len(b) > 64 {
			return fmt.Sprintf("%d bytes", len(b))
		}
		return fmt.Sprintf("%q", v.Bytes())
	case protoreflect.StringKind:
		return fmt.Sprintf("%q", v.String())
	}
	return fmt.Sprint(v.Interface())
}

func showKeys(r *rig, prefix string, answer func(string, ...any)) {
	r.flush()
	records := map[byte]func() decodable{
		'i': func() decodable { return new(metapb.InodeRecord) },
		'e': func() decodable { return new(metapb.ExtentRecord) },
		'b': func() decodable { return new(metapb.BlockRecord) },
		'x': func() decodable { return new(metapb.DyingRecord) },
		'r': func() decodable { return new(metapb.RangeRecord) },
		'g': func() decodable { return new(metapb.OriginRecord) },
		'q': func() decodable { return new(metapb.PurgeRecord) },
		's': func() decodable { return new(metapb.SlotRecord) },
		'u': func() decodable { return new(metapb.UsageRecord) },
		'O': func() decodable { return new(metapb.OpenRecord) },
		'L': func() decodable { return new(metapb.LockRecord) },
		'w': func() decodable { return new(metapb.KnownClient) },
		'z': func() decodable { return new(metapb.SlotRecord) },
		'C': func() decodable { return new(metapb.ClientRecord) },
		'S': func() decodable { return new(metapb.SessionRecord) },
		'v': func() decodable { return new(metapb.ReservationRecord) },
	}
	_ = r.store.Scan([]byte(prefix), prefixEnd([]byte(prefix)), func(k, v []byte) bool {
		if f := records[k[0]]; f != nil {
			m := f()
			if err := m.UnmarshalVT(v); err != nil {
				r.t.Fatal(err)
			}
			answer("%s %x %s", k[:2], k[2:], show(m.ProtoReflect()))
		} else if len(v) > 0 && (k[0] == 'y' || k[0] == 'W') {
			answer("%s %x %x", k[:2], k[2:], v)
		} else {
			answer("%s %x", k[:2], k[2:])
		}
		return true
	})
}
