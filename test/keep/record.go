package keep

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// recordBytes is the length of a record, of which the file that stays open has one.
const recordBytes = 512

// record is the i-th one: its number, what follows from it, and a checksum.
func record(i uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, i)
	b = append(b, bytes.Repeat([]byte{byte(i)}, recordBytes-len(b)-crc32.Size)...)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// number is that of a record, which must be whole.
func number(b []byte) (uint64, error) {
	if len(b) != recordBytes {
		return 0, fmt.Errorf("a record of %d bytes, not %d", len(b), recordBytes)
	}
	i := binary.LittleEndian.Uint64(b)
	if !bytes.Equal(b, record(i)) {
		return 0, fmt.Errorf("a record that is not whole: it begins with %x", b[:16])
	}
	return i, nil
}
