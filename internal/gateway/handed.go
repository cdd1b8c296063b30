package gateway

import (
	"encoding/binary"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// What a gateway says of a client that it gives up (metapb ClientRecord.handed): a byte of format, then for each stateid its 12 bytes and 4 of seqid, big-endian. It may be
// missing, or be of a format that is not known here: then clients wait for seqids, see state.Handed.

const (
	handedFormat = 1
	seqidLen     = len(vfs.StateID{}) + 4
	// maxHandedSeqids is how many the metadata takes, 16 KiB.
	maxHandedSeqids = (16<<10 - 1) / seqidLen
)

func encodeSeqids(list []state.StateSeqid) []byte {
	if len(list) == 0 {
		return nil
	}
	b := []byte{handedFormat}
	for _, q := range list[:min(len(list), maxHandedSeqids)] {
		b = binary.BigEndian.AppendUint32(append(b, q.State[:]...), q.Seqid)
	}
	return b
}

func seqidsOf(b []byte) (list []state.StateSeqid) {
	if len(b) == 0 || b[0] != handedFormat {
		return nil
	}
	for b = b[1:]; len(b) >= seqidLen; b = b[seqidLen:] {
		list = append(list, state.StateSeqid{State: vfs.StateID(b[:seqidLen-4]), Seqid: binary.BigEndian.Uint32(b[seqidLen-4:])})
	}
	return list
}
