package xdr

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"pgregory.net/rapid"
)

// Whatever is appended is decoded again, and takes a multiple of four bytes.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u32 := rapid.Uint32().Draw(t, "u32")
		i32 := rapid.Int32().Draw(t, "i32")
		u64 := rapid.Uint64().Draw(t, "u64")
		i64 := rapid.Int64().Draw(t, "i64")
		flag := rapid.Bool().Draw(t, "flag")
		opaque := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "opaque")
		s := rapid.String().Draw(t, "s")
		var b []byte
		b = AppendUint32(b, u32)
		b = AppendInt32(b, i32)
		b = AppendUint64(b, u64)
		b = AppendInt64(b, i64)
		b = AppendBool(b, flag)
		b = AppendOpaque(b, opaque)
		b = AppendString(b, s)
		b = AppendFixed(b, opaque)
		if len(b)%4 != 0 {
			t.Fatalf("%d bytes", len(b))
		}
		d := NewDecoder(b)
		if d.Uint32() != u32 || d.Int32() != i32 || d.Uint64() != u64 || d.Int64() != i64 || d.Bool() != flag ||
			!bytes.Equal(d.Opaque(20), opaque) || d.String(len(s)) != s || !bytes.Equal(d.Fixed(len(opaque)), opaque) ||
			d.Len() != 0 || d.Err() != nil {
			t.Fatalf("decoded something else, %v", d.Err())
		}
		// Cut off anywhere, it is an error and nothing worse.
		d.Reset(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")])
		d.Uint32()
		d.Int32()
		d.Uint64()
		d.Int64()
		d.Bool()
		d.Opaque(20)
		d.Opaque(len(s))
		d.Fixed(len(opaque))
		if len(opaque) > 0 && !errors.Is(d.Err(), ErrShort) {
			t.Fatalf("cut off: %v", d.Err())
		}
	})
}

func TestDecoderRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		p    []byte
		do   func(*Decoder)
		want error
	}{
		{"bool of 2", AppendUint32(nil, 2), func(d *Decoder) { d.Bool() }, ErrBool},
		{"opaque over the limit", AppendOpaque(nil, make([]byte, 9)), func(d *Decoder) { d.Opaque(8) }, ErrLength},
		{"opaque beyond the record", AppendUint32(nil, 0xffffffff), func(d *Decoder) { d.Opaque(1<<32 - 1) }, ErrShort},
		{"padding", []byte{0, 0, 0, 1, 'x', 0, 0, 1}, func(d *Decoder) { d.Opaque(8) }, ErrPadding},
		{"padding missing", []byte{0, 0, 0, 1, 'x'}, func(d *Decoder) { d.Opaque(8) }, ErrShort},
		{"count over the limit", AppendUint32(nil, 9), func(d *Decoder) { d.Count(8, 4) }, ErrLength},
		{"count beyond the record", AppendUint64(nil, 8<<32), func(d *Decoder) { d.Count(8, 4) }, ErrShort},
		{"skip beyond the record", nil, func(d *Decoder) { d.Skip(1) }, ErrShort},
		{"negative skip", make([]byte, 8), func(d *Decoder) { d.Skip(-1) }, ErrShort},
	} {
		d := NewDecoder(tc.p)
		tc.do(&d)
		if !errors.Is(d.Err(), tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, d.Err(), tc.want)
		}
		first := d.Err()
		d.Fail(io.EOF)
		if d.Uint64() != 0 || d.Opaque(1) != nil || d.Err() != first {
			t.Errorf("%s: the error did not stick", tc.name)
		}
	}
}

// Generated types read from a Decoder and write to a Writer.
func TestReaderAndWriter(t *testing.T) {
	d := NewDecoder([]byte("12345678"))
	d.Skip(4)
	p, err := io.ReadAll(&d)
	if string(p) != "5678" || err != nil || d.Len() != 0 || d.Offset() != 8 {
		t.Errorf("%q, %v", p, err)
	}
	var w Writer
	if _, err := io.Copy(&w, bytes.NewReader([]byte("abc"))); err != nil || string(w.B) != "abc" {
		t.Errorf("%q, %v", w.B, err)
	}
}

func TestDecoderDoesNotAllocate(t *testing.T) {
	b := AppendOpaque(AppendUint64(nil, 1), make([]byte, 1000))
	if n := testing.AllocsPerRun(100, func() {
		d := NewDecoder(b)
		d.Uint64()
		d.Opaque(1000)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
