package fsm

import (
	"bytes"
	"encoding/binary"

	"github.com/rackfs/rackfs/vfs"
)

// formatMagic and formatVersion begin the format record of every state.
const (
	formatMagic   = "rackfsmeta"
	formatVersion = 1
)

// FirstIncarnation is that of a metadata state which was never restored from a
// backup. Block stores are stamped with the incarnation that they belong to.
const FirstIncarnation = 1

// encodeFormat is the format record: magic, version (1 byte), shard (2),
// incarnation (8), cluster id (the rest).
func encodeFormat(o *Options) []byte {
	b := append([]byte(formatMagic), formatVersion)
	b = binary.BigEndian.AppendUint16(b, o.Shard)
	b = binary.BigEndian.AppendUint64(b, FirstIncarnation)
	return append(b, o.Cluster...)
}

type format struct {
	shard       uint16
	incarnation uint64
	cluster     []byte
}

func decodeFormat(b []byte) (format, error) {
	const op = "fsm.format"
	const fixed = len(formatMagic) + 1 + 2 + 8
	if len(b) <= len(formatMagic) || string(b[:len(formatMagic)]) != formatMagic {
		return format{}, vfs.Errorf(vfs.KindCorrupt, op, "this is not the state of a metadata shard")
	}
	if v := b[len(formatMagic)]; v != formatVersion {
		return format{}, vfs.Errorf(vfs.KindIncompatible, op, "state format %d, this version reads %d: install a newer release", v, formatVersion)
	}
	if len(b) < fixed {
		return format{}, vfs.Errorf(vfs.KindCorrupt, op, "format record of %d bytes", len(b))
	}
	b = b[len(formatMagic)+1:]
	return format{
		shard:       binary.BigEndian.Uint16(b),
		incarnation: binary.BigEndian.Uint64(b[2:]),
		cluster:     bytes.Clone(b[10:]),
	}, nil
}

func checkFormat(b []byte, o *Options) error {
	const op = "fsm.format"
	f, err := decodeFormat(b)
	if err != nil {
		return err
	}
	if f.shard != o.Shard {
		return vfs.Errorf(vfs.KindIncompatible, op, "the state is of shard %d, not %d", f.shard, o.Shard)
	}
	if !bytes.Equal(f.cluster, o.Cluster) {
		return vfs.Errorf(vfs.KindIncompatible, op, "the state is of cluster %x, not %x", f.cluster, o.Cluster)
	}
	return nil
}

const stateLen = 8 + 4 + 8

// encodeState is the state record: applied index (8), level (4), digest (8).
func encodeState(applied uint64, level uint32, digest uint64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, stateLen), applied)
	b = binary.BigEndian.AppendUint32(b, level)
	return binary.BigEndian.AppendUint64(b, digest)
}

func decodeState(b []byte) (applied uint64, level uint32, digest uint64, err error) {
	if len(b) != stateLen {
		return 0, 0, 0, vfs.Errorf(vfs.KindCorrupt, "fsm.state", "state record of %d bytes", len(b))
	}
	return binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint64(b[12:]), nil
}

func levelError(op string, level, max uint32) error {
	return vfs.Errorf(vfs.KindIncompatible, op, "feature level %d, this version applies up to %d: install a newer release", level, max)
}
