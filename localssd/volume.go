package localssd

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

const (
	volumeFile = "VOLUME"
	lockFile   = "lock"
	dataDir    = "data"

	volumeMagic  = "rackfs-local-volume"
	volumeFormat = 1
	maxVolume    = 4096 // bytes of VOLUME

	// DefaultDescriptors bounds the inodes that keep descriptors though nobody uses them.
	DefaultDescriptors = 4096
)

// Options of a volume.
type Options struct {
	RootMode    uint32 // of the root of a new volume, 0755
	Descriptors int    // inodes not in use whose descriptors stay open, DefaultDescriptors
	LazyNames   bool   // changes of names and attributes are durable when the kernel writes them, not when they return
	Logger      *slog.Logger
}

// record is the content of VOLUME.
type record struct {
	Magic  string `json:"magic"`
	Format int    `json:"format"`
	ID     []byte `json:"id"`
}

// FS is a volume. It is safe for concurrent use.
type FS struct {
	id       [16]byte // in the mark of everything in it
	identity *identity
	codec    *codec
	log      *slog.Logger

	lazyNames bool
	syncs     atomic.Uint64 // how many there were

	lock    *os.File
	data    string // path of the root, for reports
	rootFD  int    // of the root, readable: open_by_handle_at takes no O_PATH
	mountID int32
	dev     uint64

	boot     [8]byte // of this start: half of the verifier
	lossesMu sync.Mutex
	losses   uint64

	nodes table
}

var _ vfs.FS = (*FS)(nil)

// Open opens the volume in dir, which is made if it is not there.
func Open(dir string, o Options) (_ *FS, err error) {
	if o.Descriptors == 0 {
		o.Descriptors = descriptors()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	fs := &FS{log: o.Logger, lazyNames: o.LazyNames, rootFD: -1, data: filepath.Join(dir, dataDir)}
	if fs.identity, err = ownIdentity(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = fs.Stop()
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), opOpen, "%w", err)
	}
	if fs.lock, err = os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), opOpen, "%w", err)
	}
	if err := unix.Flock(int(fs.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, vfs.Errorf(vfs.KindBusy, opOpen, "%s is served by another process: stop that first", dir)
	}
	if o.RootMode == 0 {
		o.RootMode = 0o755
	}
	if err := fs.identify(dir, o.RootMode); err != nil {
		return nil, err
	}
	if err := fs.openRoot(); err != nil {
		return nil, err
	}
	rand.Read(fs.boot[:])
	fs.nodes.init(fs, o.Descriptors)
	return fs, fs.mark(fs.rootFD, nil)
}

// descriptors is DefaultDescriptors, or less where this process may not have that many: an inode in use has up to three.
func descriptors() int {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil {
		return DefaultDescriptors
	}
	return max(int(min(lim.Cur/8, DefaultDescriptors)), 1)
}

// identify reads or makes VOLUME and data.
func (fs *FS) identify(dir string, rootMode uint32) error {
	path := filepath.Join(dir, volumeFile)
	raw, err := vfile.ReadFile(vfile.OS{}, path, maxVolume)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := os.Mkdir(fs.data, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return vfs.Errorf(vfs.KindOf(err), opOpen, "%w", err)
		}
		if err := unix.Chmod(fs.data, rootMode); err != nil {
			return fail(opOpen, err)
		}
		rand.Read(fs.id[:])
		raw, err = json.Marshal(record{Magic: volumeMagic, Format: volumeFormat, ID: fs.id[:]})
		if err != nil {
			return vfs.Wrap(opOpen, err)
		}
		return vfs.Wrap(opOpen, vfile.WriteFileAtomic(vfile.OS{}, dir, volumeFile, raw))
	case err != nil:
		return vfs.Errorf(vfs.KindOf(err), opOpen, "%w", err)
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil || r.Magic != volumeMagic || len(r.ID) != len(fs.id) && r.Format <= volumeFormat {
		return vfs.Errorf(vfs.KindCorrupt, opOpen, "%s does not describe a local volume: restore it, or begin with an empty directory", path)
	}
	if r.Format != volumeFormat {
		return vfs.Errorf(vfs.KindIncompatible, opOpen, "%s has format %d, this release knows %d: use a newer release", path, r.Format, volumeFormat)
	}
	fs.id = [16]byte(r.ID)
	return nil
}

func (fs *FS) openRoot() (err error) {
	if fs.rootFD, err = unix.Open(fs.data, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return vfs.Errorf(vfs.KindOf(err), opOpen, "%s: %w", fs.data, err)
	}
	root, mount, err := handleAt(fs.rootFD, "")
	if errors.Is(err, unix.EOPNOTSUPP) {
		return vfs.Errorf(vfs.KindNotSupported, opOpen, "the file system of %s has no file handles: use a directory on ext4, xfs or btrfs", fs.data)
	}
	if err != nil {
		return fail(opOpen, err)
	}
	var st unix.Stat_t
	var sf unix.Statfs_t
	if err := errors.Join(unix.Fstat(fs.rootFD, &st), unix.Fstatfs(fs.rootFD, &sf)); err != nil {
		return fail(opOpen, err)
	}
	fs.mountID, fs.dev = mount, st.Dev
	if fs.codec, err = newCodec(root, int64(sf.Type)); err != nil {
		return err
	}
	// Some file systems make handles that they cannot open.
	fd, err := openHandle(fs.rootFD, &root, unix.O_PATH)
	if err != nil {
		return vfs.Errorf(vfs.KindNotSupported, opOpen, "%s: its handle cannot be opened: %w", fs.data, err)
	}
	return unix.Close(fd)
}

// Stop ends the volume. Nobody uses it any more. A second time does nothing.
func (fs *FS) Stop() error {
	err := fs.nodes.close()
	if fs.rootFD >= 0 {
		err = errors.Join(err, unix.Close(fs.rootFD))
	}
	if fs.lock != nil {
		err = errors.Join(err, fs.lock.Close())
	}
	fs.rootFD, fs.lock = -1, nil
	return err
}

// Health says why the volume cannot be used as it should be, nil if it can.
func (fs *FS) Health() error {
	var st unix.Stat_t
	var sf unix.Statfs_t
	if err := errors.Join(unix.Fstat(fs.rootFD, &st), unix.Fstatfs(fs.rootFD, &sf)); err != nil {
		return fail("health", err)
	}
	switch {
	case st.Nlink == 0:
		return vfs.Errorf(vfs.KindIO, "health", "the directory %s was removed", fs.data)
	case sf.Flags&unix.ST_RDONLY != 0:
		return vfs.Errorf(vfs.KindReadOnly, "health", "the file system of %s is mounted read-only: look for disk errors in the kernel's log", fs.data)
	}
	return nil
}

func (fs *FS) verifier() vfs.Verifier {
	fs.lossesMu.Lock()
	defer fs.lossesMu.Unlock()
	v := fs.boot
	for i, n := 0, fs.losses; n > 0; i, n = i+1, n>>8 {
		v[i] ^= byte(n)
	}
	return v
}

// lost changes the verifier: unstable bytes may be gone.
func (fs *FS) lost(err error) {
	fs.lossesMu.Lock()
	fs.losses++
	fs.lossesMu.Unlock()
	fs.log.Error("the disk lost writes of the local volume; clients send again what they still have", "volume", fs.data, "err", err)
}

// now is the clock that ctime comes from.
func now() int64 { return time.Now().UnixNano() }
