package backup

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/age"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// Keys are what a backup of the metadata lacks to begin a cluster again on a machine that has nothing of it: who the node is that the backup was made at, its
// certificate, and the cluster's CA. The cluster's other keys (of file handles, of gossip, of sealed credentials) are in the metadata. They are kept in a file of their own beside the backup, encrypted by a
// passphrase in the format of age (age-encryption.org/v1, scrypt), so that other programs can open it too. Inside it is JSON.
type Keys struct {
	Format  int               `json:"format"`
	Cluster string            `json:"cluster"` // id, hex
	Files   map[string][]byte `json:"files"`   // by their names in the data directory
}

const (
	// KeysSuffix is what the file of keys has behind the backup's name.
	KeysSuffix = ".keys.age"

	keysFormat = 1
	// MinPassphrase is the least length of a passphrase in bytes: scrypt makes guessing slow, not impossible.
	MinPassphrase = 12
	// scryptLog2 is age's own work factor: a second of one processor and 256 MiB. A file that wants more is refused.
	scryptLog2   = 18
	maxKeyFile   = 1 << 20
	maxKeysBytes = 8 << 20
)

// identityFiles are those of a data directory that say whose it is, in the order in which they are written: the one that makes a data directory of it last. Not all directories have all.
func identityFiles() []string {
	return []string{"pki/ca.crt", "pki/ca.key", "pki/node.key", "pki/node.crt", "rackfs.json", "node.json"}
}

// caKey is the file without which no machine can join.
const caKey = "pki/ca.key"

// ReadKeys reads the keys of a data directory, of a meta node or of `rackfs dev`.
func ReadKeys(files vfile.FS, dir, cluster string) (*Keys, error) {
	k := &Keys{Format: keysFormat, Cluster: cluster, Files: map[string][]byte{}}
	for _, name := range identityFiles() {
		b, err := vfile.ReadFile(files, filepath.Join(dir, name), maxKeyFile+1)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, vfs.Wrap("backup", err)
		case len(b) > maxKeyFile:
			return nil, vfs.Errorf(vfs.KindCorrupt, "backup", "%s has more than %d bytes", filepath.Join(dir, name), maxKeyFile)
		default:
			k.Files[name] = b
		}
	}
	if k.Files[caKey] == nil {
		return nil, vfs.Errorf(vfs.KindNotFound, "backup", "%s is not there: the key of the CA is on nodes with the role meta, ask one of them", filepath.Join(dir, caKey))
	}
	return k, nil
}

// Save writes the keys to a new file, which is read again before it gets its name.
func (k *Keys) Save(path, passphrase string) error { return k.save(path, passphrase, scryptLog2) }

func (k *Keys) save(path, passphrase string, log2 int) error {
	if len(passphrase) < MinPassphrase {
		return vfs.Errorf(vfs.KindInvalid, "backup", "a passphrase of %d bytes is guessed too soon: use %d or more", len(passphrase), MinPassphrase)
	}
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return vfs.Wrap("backup", err)
	}
	to.SetWorkFactor(log2)
	plain, err := json.Marshal(k)
	if err != nil {
		return vfs.Wrap("backup", err)
	}
	return saveNew(path, func(f *os.File) error {
		w, err := age.Encrypt(f, to)
		if err == nil {
			_, err = w.Write(plain)
		}
		if err == nil {
			err = w.Close()
		}
		return err
	}, func(f *os.File) error {
		again, err := readKeys(f, passphrase)
		if err == nil && !slices.Equal(sortedNames(again), sortedNames(k)) {
			err = vfs.Errorf(vfs.KindCorrupt, "", "the copy of the keys that was written is not what was to be")
		}
		return err
	})
}

func sortedNames(k *Keys) (names []string) {
	for n := range k.Files {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// LoadKeys reads a file of keys.
func LoadKeys(path, passphrase string) (*Keys, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, vfs.Wrap("restore", err)
	}
	defer f.Close()
	k, err := readKeys(f, passphrase)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), "restore", "%s: %w", path, err)
	}
	return k, nil
}

func readKeys(r io.Reader, passphrase string) (*Keys, error) {
	by, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, "", "the passphrase is empty")
	}
	by.SetMaxWorkFactor(scryptLog2)
	plain, err := age.Decrypt(r, by)
	var wrong *age.NoIdentityMatchError
	if errors.As(err, &wrong) {
		return nil, vfs.Errorf(vfs.KindAccess, "", "the passphrase does not open it")
	} else if err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, "", "it is no file of keys, or damaged: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(plain, maxKeysBytes+1))
	if err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, "", "it is damaged: %w", err)
	}
	k := new(Keys)
	if len(raw) > maxKeysBytes || json.Unmarshal(raw, k) != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, "", "it holds something else than keys")
	}
	if k.Format != keysFormat {
		return nil, vfs.Errorf(vfs.KindIncompatible, "", "it has format %d, this release knows %d", k.Format, keysFormat)
	}
	for name := range k.Files {
		if !slices.Contains(identityFiles(), name) {
			return nil, vfs.Errorf(vfs.KindCorrupt, "", "it holds %q, which is no part of a node's identity", name)
		}
	}
	return k, nil
}

// Put makes dir the data directory of the node that the keys are of. What is there already has to be the same: a data directory that is left is not replaced.
func (k *Keys) Put(files vfile.FS, dir string) error {
	const op = "restore"
	var missing []string
	for _, name := range identityFiles() {
		want := k.Files[name]
		b, err := vfile.ReadFile(files, filepath.Join(dir, name), maxKeyFile+1)
		switch {
		case want == nil:
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, name)
		case err != nil:
			return vfs.Wrap(op, err)
		case !bytes.Equal(b, want):
			return vfs.Errorf(vfs.KindExists, op, "%s is there and another one: restore without the keys on a machine that has its data directory, or move it away", filepath.Join(dir, name))
		}
	}
	for _, name := range missing {
		in := filepath.Join(dir, filepath.Dir(name))
		if err := vfile.MkdirAllSync(files, in); err != nil {
			return vfs.Wrap(op, err)
		}
		if err := vfile.WriteFileAtomic(files, in, filepath.Base(name), k.Files[name]); err != nil {
			return vfs.Wrap(op, err)
		}
	}
	return nil
}
