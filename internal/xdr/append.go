package xdr

import "encoding/binary"

var zeros [4]byte

// Pad is how many zero bytes follow n bytes of opaque data (RFC 4506, 4.10).
func Pad(n int) int { return -n & 3 }

// AppendUint32 appends an unsigned int.
func AppendUint32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

// AppendInt32 appends an int or an enum.
func AppendInt32(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }

// AppendUint64 appends an unsigned hyper.
func AppendUint64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

// AppendInt64 appends a hyper.
func AppendInt64(b []byte, v int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(v)) }

// AppendBool appends a bool.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return AppendUint32(b, 1)
	}
	return AppendUint32(b, 0)
}

// AppendOpaque appends variable-length opaque data: length, bytes, padding.
func AppendOpaque(b, p []byte) []byte {
	return AppendFixed(AppendUint32(b, uint32(len(p))), p)
}

// AppendString appends a string.
func AppendString(b []byte, s string) []byte {
	b = AppendUint32(b, uint32(len(s)))
	b = append(b, s...)
	return append(b, zeros[:Pad(len(s))]...)
}

// AppendFixed appends fixed-length opaque data: bytes and padding.
func AppendFixed(b, p []byte) []byte {
	b = append(b, p...)
	return append(b, zeros[:Pad(len(p))]...)
}

// PutUint32 overwrites the four bytes at off, for counts and lengths that are
// known only after what follows them.
func PutUint32(b []byte, off int, v uint32) { binary.BigEndian.PutUint32(b[off:], v) }

// Writer lets generated types append themselves to B.
type Writer struct{ B []byte }

// Write appends p; it never fails.
func (w *Writer) Write(p []byte) (int, error) {
	w.B = append(w.B, p...)
	return len(p), nil
}
