package login

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

func env(vars ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(vars); i += 2 {
			if vars[i] == name {
				return vars[i+1]
			}
		}
		return ""
	}
}

// Profiles come and go, the file is its owner's alone, and nothing says a token.
func TestProfiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "login.json")
	mine := env(EnvFile, path)
	if _, found, err := Find(mine, ""); found || err != nil {
		t.Fatal(found, err)
	}
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		f.Put(name, Profile{URL: "https://" + name, Token: "rackfs_secret" + name, CA: "00"})
	}
	if err := f.Save(); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatal(fi.Mode(), err)
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Fatal(fi.Mode(), err)
	}
	for _, x := range []struct {
		env  func(string) string
		name string
		want string
	}{
		{mine, "", "https://b"}, {mine, "a", "https://a"}, {env(EnvFile, path, EnvProfile, "a"), "", "https://a"}, {env(EnvFile, path, EnvProfile, "a"), "b", "https://b"},
		{env(EnvFile, path, EnvURL, "https://e", EnvToken, "t"), "", "https://e"}, {env(EnvFile, path, EnvURL, "https://e"), "a", "https://a"},
	} {
		if p, found, err := Find(x.env, x.name); err != nil || !found || p.URL != x.want {
			t.Errorf("%+v %v %v, want %s", p, found, err, x.want)
		}
	}
	if _, _, err := Find(mine, "c"); vfs.KindOf(err) != vfs.KindNotFound || !strings.Contains(err.Error(), "there are a, b") || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	if f, err = Load(path); err != nil || f.Drop("b") != nil || f.Current != "a" || f.Drop("b") == nil || f.Drop("a") != nil || f.Current != "" {
		t.Errorf("%+v %v", f, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Find(mine, ""); vfs.KindOf(err) != vfs.KindPerm || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others may read: %v", err)
	}
	for what, s := range map[string]string{"newer": `{"format":2}`, "damaged": `{"format":`} {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil || os.Chmod(path, 0o600) != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "log in again") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestTokens(t *testing.T) {
	dir := t.TempDir()
	for s, ok := range map[string]bool{"rackfs_x\n": true, "": false, "\n": false, "a b": false, "a\x00": false, "ü": false, strings.Repeat("x", 2000): false} {
		file := filepath.Join(dir, "token")
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadToken(file)
		if (err == nil) != ok || ok && got != strings.TrimSpace(s) {
			t.Errorf("%q: %q %v", s, got, err)
		}
		if p, _, ferr := Find(env(EnvURL, "https://x", EnvTokenFile, file), ""); (ferr == nil) != ok || p.Token != got {
			t.Errorf("%q by the environment: %+v %v", s, p, ferr)
		}
	}
}
