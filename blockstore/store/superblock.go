package store

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

const (
	superblockName  = "SUPERBLOCK"
	superblockSize  = 4096
	superblockMagic = "RKFSBLK\n"
	// formatVersion is the version of everything in the directory.
	formatVersion = 1
	// formatRelease is the first release that reads formatVersion. It is
	// stored so that an older release can name the one it would take.
	formatRelease = "rackfs 0.1"
)

var (
	le     = binary.LittleEndian
	be     = binary.BigEndian
	crcTab = crc32.MakeTable(crc32.Castagnoli)
)

// superblock is the identity of a store. Layout, little-endian: magic 8 B, version u16,
// 6 B zero, release 32 B, cluster id 16 B, store id 16 B, metadata incarnation
// u64, segment size u64, zero up to 4092, CRC32C of all before.
type superblock struct {
	cluster     segment.ID
	store       segment.ID
	incarnation uint64 // of the cluster's metadata, see ARCHITECTURE: no deletion for any other
	segmentSize int64
}

func (s *superblock) encode() []byte {
	p := make([]byte, superblockSize)
	copy(p, superblockMagic)
	le.PutUint16(p[8:], formatVersion)
	copy(p[16:48], formatRelease)
	copy(p[48:], s.cluster[:])
	copy(p[64:], s.store[:])
	le.PutUint64(p[80:], s.incarnation)
	le.PutUint64(p[88:], uint64(s.segmentSize))
	le.PutUint32(p[superblockSize-4:], crc32.Checksum(p[:superblockSize-4], crcTab))
	return p
}

func decodeSuperblock(dir string, p []byte) (superblock, error) {
	const op = "store.open"
	if len(p) < superblockSize || string(p[:8]) != superblockMagic {
		return superblock{}, vfs.Errorf(vfs.KindCorrupt, op, "%s/%s is not the superblock of a rackfs block store", dir, superblockName)
	}
	if crc32.Checksum(p[:superblockSize-4], crcTab) != le.Uint32(p[superblockSize-4:]) {
		return superblock{}, vfs.Errorf(vfs.KindCorrupt, op, "%s/%s is damaged (checksum); the disk may be failing", dir, superblockName)
	}
	if v := le.Uint16(p[8:]); v != formatVersion {
		return superblock{}, vfs.Errorf(vfs.KindIncompatible, op, "%s has block store format %d, which needs %s; this release reads format %d",
			dir, v, bytes.TrimRight(p[16:48], "\x00"), formatVersion)
	}
	return superblock{
		cluster: segment.ID(p[48:64]), store: segment.ID(p[64:80]),
		incarnation: le.Uint64(p[80:]), segmentSize: int64(le.Uint64(p[88:])),
	}, nil
}

func readSuperblock(fs vfile.FS, dir string) (superblock, error) {
	p, err := vfile.ReadFile(fs, dir+"/"+superblockName, superblockSize)
	if err != nil {
		return superblock{}, err
	}
	return decodeSuperblock(dir, p)
}
