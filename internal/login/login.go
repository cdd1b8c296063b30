// Package login keeps where a user is logged in: the gateways and tokens that `rackfs login` was given, in a file of the user's own.
//
// The file is JSON with a format version, mode 0600, in a directory of mode 0700. It is replaced as a whole. One that others may read is refused, as ssh does with keys: a
// token in it may have been seen.
package login

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/vfs"
)

const (
	format = 1
	// Default is the name of a profile that was given none.
	Default = "default"
	// maxFile bounds the bytes of the file, maxToken those of a token.
	maxFile  = 1 << 20
	maxToken = 1 << 10
)

// Names of environment variables, which come before the file.
const (
	EnvURL       = "RACKFS_URL"
	EnvToken     = "RACKFS_TOKEN"
	EnvTokenFile = "RACKFS_TOKEN_FILE"
	EnvCA        = "RACKFS_CA"
	EnvProfile   = "RACKFS_LOGIN"
	EnvFile      = "RACKFS_LOGIN_FILE" // in place of the user's own
)

// Profile is one gateway and how one is known there.
type Profile struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	CA    string `json:"ca,omitempty"` // SHA-256 of the cluster's CA certificate, in hex
}

// File is all that a user has.
type File struct {
	Format   int                `json:"format"`
	Current  string             `json:"current,omitempty"` // profile that is used if none is named
	Profiles map[string]Profile `json:"profiles"`

	path string
}

// Path is where the file of this user is.
func Path(env func(string) string) (string, error) {
	if p := env(EnvFile); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", vfs.Errorf(vfs.KindInvalid, "login", "%w: set HOME, or %s", err, EnvFile)
	}
	return filepath.Join(dir, "rackfs", "login.json"), nil
}

// Load reads a file; one that is not there has nothing in it.
func Load(path string) (*File, error) {
	const op = "login"
	out := &File{Format: format, Profiles: map[string]Profile{}, path: path}
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, vfs.Errorf(vfs.KindIO, op, "%w", err)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return nil, vfs.Errorf(vfs.KindPerm, op, "%s is mode %04o, so others can read the tokens in it: run `chmod 600 %s`", path, fi.Mode().Perm(), path)
	}
	if fi.Size() > maxFile {
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "%s has %d bytes: remove it and log in again", path, fi.Size())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindIO, op, "%w", err)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "%s: %w: remove it and log in again", path, err)
	}
	if out.Format != format {
		return nil, vfs.Errorf(vfs.KindIncompatible, op, "%s has format %d, this release knows %d: use the release that wrote it, or remove it and log in again", path, out.Format, format)
	}
	if out.Profiles == nil {
		out.Profiles = map[string]Profile{}
	}
	return out, nil
}

// Save writes the file.
func (f *File) Save() error {
	const op = "login"
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return vfs.Errorf(vfs.KindInternal, op, "%w", err)
	}
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return vfs.Errorf(vfs.KindIO, op, "%w", err)
	}
	tmp, err := os.CreateTemp(dir, ".login-*") // mode 0600
	if err != nil {
		return vfs.Errorf(vfs.KindIO, op, "%w", err)
	}
	_, err = tmp.Write(append(raw, '\n'))
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return vfs.Errorf(vfs.KindIO, op, "%w", err)
	}
	return nil
}

// Put sets a profile and makes it the one that is used.
func (f *File) Put(name string, p Profile) {
	f.Profiles[name], f.Current = p, name
}

// Drop removes a profile. If it was the current one, there is none then, but for the last that is left.
func (f *File) Drop(name string) error {
	if _, err := f.Get(name); err != nil {
		return err
	}
	delete(f.Profiles, name)
	if f.Current == name {
		f.Current = ""
		if names := f.Names(); len(names) == 1 {
			f.Current = names[0]
		}
	}
	return nil
}

// Names are those of the profiles.
func (f *File) Names() []string { return slices.Sorted(maps.Keys(f.Profiles)) }

// Get is a profile by name.
func (f *File) Get(name string) (Profile, error) {
	p, ok := f.Profiles[name]
	if ok {
		return p, nil
	}
	has := "you are not logged in"
	if len(f.Profiles) > 0 {
		has = "there are " + strings.Join(f.Names(), ", ")
	}
	return p, vfs.Errorf(vfs.KindNotFound, "login", "there is no login %q, %s: `rackfs login URL --name %s` makes it", name, has, name)
}

// Find is who the user is by the environment, or by the profile of the given name, else by the current one. found is false if he is nobody.
func Find(env func(string) string, name string) (p Profile, found bool, err error) {
	if env(EnvURL) != "" && name == "" {
		p = Profile{URL: env(EnvURL), Token: env(EnvToken), CA: env(EnvCA)}
		if file := env(EnvTokenFile); p.Token == "" && file != "" {
			p.Token, err = ReadToken(file)
		}
		return p, true, err
	}
	path, err := Path(env)
	if err != nil {
		return p, false, err
	}
	f, err := Load(path)
	if err != nil {
		return p, false, err
	}
	if name == "" {
		name = env(EnvProfile)
	}
	if name == "" && f.Current == "" {
		return p, false, nil
	}
	if name == "" {
		name = f.Current
	}
	p, err = f.Get(name)
	return p, err == nil, err
}

// ReadToken reads a token from a file.
func ReadToken(file string) (string, error) {
	const op = "token"
	in, err := os.Open(file)
	if err != nil {
		return "", vfs.Errorf(vfs.KindNotFound, op, "%w", err)
	}
	defer in.Close()
	b := make([]byte, maxToken+1)
	n, err := in.Read(b)
	if n == 0 && err != nil {
		return "", vfs.Errorf(vfs.KindInvalid, op, "%s has nothing in it", file)
	}
	return CheckToken(string(b[:n]))
}

// CheckToken is a token without the space around it; what cannot be one is refused, without being shown.
func CheckToken(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > maxToken || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", vfs.Errorf(vfs.KindInvalid, "token", "that is no token: `rackfs token create NAME` makes one, and `rackfs dev` prints one")
	}
	return s, nil
}
