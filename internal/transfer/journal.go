package transfer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

const (
	journalFormat = 1
	// journalLife is how long a note is kept: longer than the server keeps what it is about.
	journalLife = 7 * 24 * time.Hour
	// maxNote bounds the bytes of a note.
	maxNote = 64 << 10
)

// Journal keeps what is needed to go on with large files after this process has ended: a small file each, in a directory of the user's.
type Journal struct{ dir string }

// OpenJournal opens the one in dir, which is made, and drops notes that are of no use any more.
func OpenJournal(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, localError("journal", dir, err)
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, localError("journal", dir, err)
	}
	for _, e := range list {
		if fi, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), noteSuffix) && time.Since(fi.ModTime()) > journalLife {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	return &Journal{dir}, nil
}

const noteSuffix = ".json"

// place says what is transferred where.
type place struct {
	Server, FileSystem, Remote, Local string
	// Of an upload: of the local file. A file that changed is another one.
	Size  int64
	Mtime time.Time
}

// note is what the journal has about a file under way.
type note struct {
	Format int    `json:"format"`
	Place  place  `json:"place"`
	Upload string `json:"upload,omitempty"` // its address
	ETag   string `json:"etag,omitempty"`   // of what is being downloaded
}

func (j *Journal) file(p place) string {
	raw, _ := json.Marshal(p) // of strings and numbers
	sum := sha256.Sum256(raw)
	return filepath.Join(j.dir, hex.EncodeToString(sum[:16])+noteSuffix)
}

// find is the note about p; nil if there is none that is of use. Nothing depends on a journal but how much is sent.
func (j *Journal) find(p place) *note {
	if j == nil {
		return nil
	}
	raw, err := os.ReadFile(j.file(p))
	if err != nil || len(raw) > maxNote {
		return nil
	}
	var n note
	if json.Unmarshal(raw, &n) != nil || n.Format != journalFormat {
		return nil
	}
	return &n
}

func (j *Journal) put(p place, n note) error {
	if j == nil {
		return nil
	}
	n.Format, n.Place = journalFormat, p
	raw, err := json.Marshal(n)
	if err != nil {
		return vfs.Errorf(vfs.KindInternal, "journal", "%w", err)
	}
	f, err := os.CreateTemp(j.dir, "new-*"+noteSuffix)
	if err != nil {
		return localError("journal", j.dir, err)
	}
	_, err = f.Write(raw)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), j.file(p))
	}
	if err != nil {
		os.Remove(f.Name())
		return localError("journal", j.dir, err)
	}
	return nil
}

func (j *Journal) drop(p place) {
	if j != nil {
		_ = os.Remove(j.file(p))
	}
}
