package xdr

import (
	"encoding/binary"
	"errors"
	"io"
)

// Errors of a Decoder. All mean that the bytes are not what the protocol
// allows (RPC GARBAGE_ARGS, NFS4ERR_BADXDR).
var (
	ErrShort   = errors.New("xdr: data ends too early")
	ErrLength  = errors.New("xdr: length over the limit")
	ErrPadding = errors.New("xdr: padding is not zero")
	ErrBool    = errors.New("xdr: bool is neither 0 nor 1")
)

// Decoder reads XDR from one record. After an error all methods return zero
// values and Err keeps the first error. The zero Decoder is empty.
type Decoder struct {
	buf []byte
	off int
	err error
}

// NewDecoder decodes b, which must not change while slices of it are in use.
func NewDecoder(b []byte) Decoder { return Decoder{buf: b} }

// Reset starts over with b.
func (d *Decoder) Reset(b []byte) { *d = Decoder{buf: b} }

// Err is the first error.
func (d *Decoder) Err() error { return d.err }

// Fail makes err the error unless there is one already, for checks that the
// caller adds.
func (d *Decoder) Fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

// Len is how many bytes are left.
func (d *Decoder) Len() int { return len(d.buf) - d.off }

// Offset is how many bytes were consumed.
func (d *Decoder) Offset() int { return d.off }

// Rest is what is left, without consuming it.
func (d *Decoder) Rest() []byte { return d.buf[d.off:] }

// Since is what was consumed from offset start on.
func (d *Decoder) Since(start int) []byte { return d.buf[start:d.off:d.off] }

func (d *Decoder) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || n > len(d.buf)-d.off {
		d.err = ErrShort
		return nil
	}
	p := d.buf[d.off : d.off+n : d.off+n]
	d.off += n
	return p
}

// Uint32 decodes an unsigned int.
func (d *Decoder) Uint32() uint32 {
	if p := d.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

// Int32 decodes an int or an enum.
func (d *Decoder) Int32() int32 { return int32(d.Uint32()) }

// Uint64 decodes an unsigned hyper.
func (d *Decoder) Uint64() uint64 {
	if p := d.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

// Int64 decodes a hyper.
func (d *Decoder) Int64() int64 { return int64(d.Uint64()) }

// Bool decodes a bool.
func (d *Decoder) Bool() bool {
	v := d.Uint32()
	if v > 1 {
		d.Fail(ErrBool)
	}
	return v == 1
}

// Fixed decodes n bytes of fixed-length opaque data as a slice of the record.
func (d *Decoder) Fixed(n int) []byte {
	p := d.take(n)
	for _, z := range d.take(Pad(n)) {
		if z != 0 {
			d.Fail(ErrPadding)
		}
	}
	if d.err != nil {
		return nil
	}
	return p
}

// Opaque decodes variable-length opaque data of at most max bytes as a slice
// of the record; it is nil only after an error.
func (d *Decoder) Opaque(max int) []byte {
	n := d.Uint32()
	if d.err == nil && uint64(n) > uint64(max) {
		d.err = ErrLength
	}
	if d.err != nil {
		return nil
	}
	return d.Fixed(int(n))
}

// String decodes a string of at most max bytes. It allocates.
func (d *Decoder) String(max int) string { return string(d.Opaque(max)) }

// Count decodes the length of an array of at most max elements of at least
// size bytes each, so that the caller may allocate the array.
func (d *Decoder) Count(max, size int) int {
	n := d.Uint32()
	if d.err != nil {
		return 0
	}
	if uint64(n) > uint64(max) {
		d.err = ErrLength
		return 0
	}
	if uint64(n)*uint64(size) > uint64(d.Len()) {
		d.err = ErrShort
		return 0
	}
	return int(n)
}

// Skip consumes n bytes.
func (d *Decoder) Skip(n int) { d.take(n) }

// Read lets generated types decode themselves from d.
func (d *Decoder) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	if d.Len() == 0 {
		return 0, io.EOF
	}
	n := copy(p, d.buf[d.off:])
	d.off += n
	return n, nil
}
