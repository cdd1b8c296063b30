package backup

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

const (
	testPassphrase = "correct horse battery staple"
	// testLog2 is less work than is done for people.
	testLog2 = 10
)

// metaDir is a data directory as far as its keys go.
func metaDir(t *testing.T, but ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"node.json", "pki/ca.crt", "pki/ca.key", "pki/node.crt", "pki/node.key", "gossip.json"} {
		if len(but) > 0 && but[0] == name {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A data directory is made of its keys, by who has the passphrase; nothing that is there is replaced.
func TestKeys(t *testing.T) {
	dir, file := metaDir(t), filepath.Join(t.TempDir(), "b"+KeysSuffix)
	k, err := ReadKeys(vfile.OS{}, dir, "c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Save(file, "short"); vfs.KindOf(err) != vfs.KindInvalid {
		t.Errorf("a short passphrase: %v", err)
	}
	if err := k.save(file, testPassphrase, testLog2); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil || bytes.Contains(raw, []byte("of pki")) {
		t.Errorf("keys are in the clear (%v)", err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("others may read it: %v, %v", st.Mode(), err)
	}
	if err := k.save(file, testPassphrase, testLog2); vfs.KindOf(err) != vfs.KindExists {
		t.Errorf("over an older one: %v", err)
	}
	if _, err := LoadKeys(file, testPassphrase+"."); vfs.KindOf(err) != vfs.KindAccess {
		t.Errorf("another passphrase: %v", err)
	}
	got, err := LoadKeys(file, testPassphrase)
	if err != nil || got.Cluster != "c1" || len(got.Files) != 5 {
		t.Fatalf("%+v, %v", got, err)
	}
	empty := filepath.Join(t.TempDir(), "data")
	for range 2 { // also where it ended before its end
		if err := got.Put(vfile.OS{}, empty); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(empty, "node.json")); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(empty, "pki/ca.key")); err != nil || string(b) != "of pki/ca.key" {
		t.Errorf("%q, %v", b, err)
	}
	other := metaDir(t)
	if err := os.WriteFile(filepath.Join(other, "pki/ca.key"), []byte("of another cluster"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(other, "node.json")); err != nil {
		t.Fatal(err)
	}
	if err := got.Put(vfile.OS{}, other); vfs.KindOf(err) != vfs.KindExists {
		t.Errorf("into the directory of another node: %v", err)
	}
	if _, err := os.Stat(filepath.Join(other, "node.json")); err == nil {
		t.Error("a refused restore has written something")
	}
	if _, err := ReadKeys(vfile.OS{}, metaDir(t, "pki/ca.key"), "c1"); vfs.KindOf(err) != vfs.KindNotFound {
		t.Errorf("of a node without the CA's key: %v", err)
	}
}

// No damage makes a file of keys something else, and what is no part of a data directory's identity is not written.
func TestKeysDamage(t *testing.T) {
	k := &Keys{Format: keysFormat, Cluster: "c1", Files: map[string][]byte{"pki/ca.key": bytes.Repeat([]byte("k"), 300)}}
	file := filepath.Join(t.TempDir(), "b")
	if err := k.save(file, testPassphrase, testLog2); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(raw); i += 7 {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if got, err := readKeys(bytes.NewReader(bad), testPassphrase); err == nil {
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(k)
			if !bytes.Equal(a, b) {
				t.Fatalf("byte %d is flipped: %s", i, a)
			}
		}
	}
	for n := 0; n < len(raw); n += 29 {
		if _, err := readKeys(bytes.NewReader(raw[:n]), testPassphrase); err == nil {
			t.Fatalf("cut to %d of %d bytes: no error", n, len(raw))
		}
	}
	for what, bad := range map[string]*Keys{
		"outside": {Format: keysFormat, Files: map[string][]byte{"../x": nil}},
		"newer":   {Format: keysFormat + 1, Files: map[string][]byte{}},
	} {
		file := filepath.Join(t.TempDir(), "b")
		if err := bad.save(file, testPassphrase, testLog2); err == nil {
			t.Errorf("%s: it is not verified", what)
		}
	}
}
