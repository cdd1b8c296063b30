package snapstore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc32"
	"io"
	"path/filepath"
	"strings"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

const (
	streamMagic   = "RKFSSNAP"
	streamVersion = 1
	streamKind    = 1
	streamHeader  = 32
	fileOverhead  = 2 + 8 + 4
	maxFiles      = 1 << 20
	maxNameBytes  = 255
	copyBytes     = 256 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var be = binary.BigEndian

func streamSize(files []File) int64 {
	n := int64(streamHeader)
	for _, f := range files {
		n += fileOverhead + int64(len(f.Name)) + f.Size
	}
	return n
}

// Reader is an opened snapshot. Read gives the stream for another replica; the
// snapshot's own replica uses Dir instead. The snapshot is not removed before Close.
type Reader struct {
	Record Record
	files  vfile.FS
	store  *Store // nil: of OpenCheckpoint
	id     string
	dir    string
	closed bool

	pend []byte      // bytes to give out before f
	f    vfile.File  // current file
	off  int64       // in f
	left int64       // of f
	sum  hash.Hash32 // of the current file
	next int         // index of the next file
	head bool        // header was given out
}

// OpenCheckpoint opens a checkpoint that is no snapshot of a Store, as it was made in dir, and tells how long its stream is. applied is a
// lower bound of the state's applied index.
func OpenCheckpoint(files vfile.FS, dir string, applied uint64) (*Reader, int64, error) {
	list, err := filesIn(files, dir)
	if err != nil {
		return nil, 0, vfs.Wrap("snapstore.open", err)
	}
	return &Reader{Record: Record{Applied: applied, Files: list}, files: files, dir: dir}, streamSize(list), nil
}

// Unpack writes the files of a stream to the new directory dir, durably but for its own name, and returns what the stream says of the
// state's applied index.
func Unpack(files vfile.FS, src io.Reader, dir string) (applied uint64, err error) {
	applied, _, err = unpack(files, src, dir)
	return applied, err
}

// Dir is the checkpoint's directory: files to link or copy, not to change.
func (r *Reader) Dir() string { return r.dir }

// Read implements io.Reader with the stream of the snapshot.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.pend) == 0 && r.left == 0 {
		if err := r.advance(); err != nil {
			return 0, err
		}
	}
	if len(r.pend) > 0 {
		n := copy(p, r.pend)
		r.pend = r.pend[n:]
		return n, nil
	}
	n, err := r.f.ReadAt(p[:min(int64(len(p)), r.left)], r.off)
	r.off += int64(n)
	r.sum.Write(p[:n])
	r.left -= int64(n)
	if err == io.EOF && r.left > 0 {
		err = vfs.Errorf(vfs.KindCorrupt, "snapstore.read", "%s is shorter than its snapshot says", filepath.Join(r.dir, r.Record.Files[r.next-1].Name))
	} else if err == io.EOF {
		err = nil
	}
	return n, err
}

// advance ends the current file and begins the next one.
func (r *Reader) advance() error {
	if !r.head {
		r.head = true
		b := append([]byte(nil), streamMagic...)
		b = be.AppendUint32(b, streamVersion)
		b = be.AppendUint32(b, streamKind)
		b = be.AppendUint64(b, r.Record.Applied)
		b = be.AppendUint32(b, uint32(len(r.Record.Files)))
		r.pend = be.AppendUint32(b, crc32.Checksum(b, castagnoli))
		return nil
	}
	if r.f != nil {
		r.pend = be.AppendUint32(nil, r.sum.Sum32())
		err := r.f.Close()
		r.f = nil
		return err
	}
	if r.next == len(r.Record.Files) {
		return io.EOF
	}
	fi := r.Record.Files[r.next]
	r.next++
	f, err := r.files.Open(filepath.Join(r.dir, fi.Name))
	if err != nil {
		return err
	}
	r.f, r.off, r.left, r.sum = f, 0, fi.Size, crc32.New(castagnoli)
	b := be.AppendUint16(nil, uint16(len(fi.Name)))
	b = append(b, fi.Name...)
	r.pend = be.AppendUint64(b, uint64(fi.Size))
	r.sum.Write(r.pend)
	return nil
}

// Close implements io.Closer.
func (r *Reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	var err error
	if r.f != nil {
		err = r.f.Close()
	}
	if r.store != nil {
		r.store.release(r.id)
	}
	return err
}

// unpack writes the files of a stream to the new directory dir, durably.
func unpack(files vfile.FS, src io.Reader, dir string) (applied uint64, list []File, err error) {
	r := bufio.NewReaderSize(src, copyBytes)
	corrupt := func(format string, args ...any) (uint64, []File, error) {
		return 0, nil, vfs.Errorf(vfs.KindCorrupt, "snapstore.receive", format, args...)
	}
	var h [streamHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return corrupt("header: %w", err)
	}
	if string(h[:8]) != streamMagic || be.Uint32(h[28:]) != crc32.Checksum(h[:28], castagnoli) {
		return corrupt("not a snapshot stream")
	}
	if v, k := be.Uint32(h[8:]), be.Uint32(h[12:]); v != streamVersion || k != streamKind {
		return 0, nil, vfs.Errorf(vfs.KindIncompatible, "snapstore.receive", "stream version %d kind %d, this release reads version %d kind %d", v, k, streamVersion, streamKind)
	}
	applied = be.Uint64(h[16:])
	n := be.Uint32(h[24:])
	if n == 0 || n > maxFiles {
		return corrupt("%d files", n)
	}
	if err := files.Mkdir(dir); err != nil {
		return 0, nil, err
	}
	for range n {
		f, err := unpackFile(files, r, dir)
		if err != nil {
			return 0, nil, err
		}
		list = append(list, f)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		return corrupt("bytes after the last file: %w", err)
	}
	return applied, list, files.SyncDir(dir)
}

func unpackFile(files vfile.FS, r *bufio.Reader, dir string) (File, error) {
	corrupt := func(format string, args ...any) (File, error) {
		return File{}, vfs.Errorf(vfs.KindCorrupt, "snapstore.receive", format, args...)
	}
	sum := crc32.New(castagnoli)
	in := io.TeeReader(r, sum)
	var b [8]byte
	if _, err := io.ReadFull(in, b[:2]); err != nil {
		return corrupt("name: %w", err)
	}
	n := be.Uint16(b[:])
	if n == 0 || n > maxNameBytes {
		return corrupt("name of %d bytes", n)
	}
	name := make([]byte, n)
	if _, err := io.ReadFull(in, name); err != nil {
		return corrupt("name: %w", err)
	}
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return corrupt("size: %w", err)
	}
	fi := File{string(name), int64(be.Uint64(b[:]))}
	if fi.Size < 0 || fi.Name == "." || fi.Name == ".." || strings.ContainsAny(fi.Name, "/\x00") {
		return corrupt("file %q of %d bytes", fi.Name, fi.Size)
	}
	f, err := files.Create(filepath.Join(dir, fi.Name))
	if err != nil {
		return File{}, err
	}
	_, err = io.CopyN(io.NewOffsetWriter(f, 0), in, fi.Size)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return File{}, vfs.Wrap("snapstore.receive", err)
	}
	if _, err := io.ReadFull(r, b[:4]); err != nil {
		return corrupt("checksum of %s: %w", fi.Name, err)
	}
	if be.Uint32(b[:]) != sum.Sum32() {
		return corrupt("%s arrived with a wrong checksum", fi.Name)
	}
	return fi, nil
}
