package xdr

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzDecoder runs a program of decoding steps over any bytes: nothing is read
// twice or past the end, an error stays, and no count allows more elements than there are bytes.
func FuzzDecoder(f *testing.F) {
	rec := binary.BigEndian.AppendUint32(nil, 5)
	rec = append(rec, "hello\x00\x00\x00"...)
	rec = binary.BigEndian.AppendUint64(rec, 1<<40)
	rec = binary.BigEndian.AppendUint32(rec, 1)
	rec = binary.BigEndian.AppendUint32(rec, 3)
	rec = append(rec, make([]byte, 12)...)
	f.Add([]byte{2, 1, 3, 4, 0, 0, 0}, rec)
	f.Add([]byte{5, 5, 6}, rec)
	f.Add([]byte{4, 4, 4}, []byte{0xff, 0xff, 0xff, 0xff, 1, 2})
	f.Fuzz(func(t *testing.T, steps, b []byte) {
		d := NewDecoder(b)
		for _, s := range steps {
			was, failed, at := d.Len(), d.Err(), d.Offset()
			var got []byte
			switch s % 7 {
			case 0:
				d.Uint32()
			case 1:
				d.Uint64()
			case 2:
				got = d.Opaque(int(s))
				if len(got) > int(s) {
					t.Fatalf("%d bytes, limit %d", len(got), s)
				}
			case 3:
				d.Bool()
			case 4:
				if n := d.Count(1<<30, 4); n*4 > d.Len() {
					t.Fatalf("%d elements in %d bytes", n, d.Len())
				}
			case 5:
				got = d.Fixed(int(s) / 7)
			case 6:
				d.Skip(int(s) / 7)
			}
			if d.Offset() < at || d.Offset()+d.Len() != len(b) {
				t.Fatalf("offset %d and %d left of %d", d.Offset(), d.Len(), len(b))
			}
			if failed != nil && (d.Err() != failed || d.Len() != was || got != nil) {
				t.Fatalf("after %v: %v, %d bytes consumed", failed, d.Err(), was-d.Len())
			}
			if len(got) > 0 && !bytes.Contains(b[at:], got) {
				t.Fatal("bytes that were not there")
			}
		}
	})
}
