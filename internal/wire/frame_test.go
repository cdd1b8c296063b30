package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// nullConn gives a frameReader a stream to read; deadlines do nothing.
type nullConn struct {
	net.Conn
	r io.Reader
}

func (c nullConn) Read(p []byte) (int, error)    { return c.r.Read(p) }
func (nullConn) SetReadDeadline(time.Time) error { return nil }

// guards returns the sending and the receiving guard of a direction.
func guards(t interface{ Fatal(...any) }, flags uint16) (out, in guard) {
	if flags != flagMAC {
		return guard{flags: flags}, guard{flags: flags}
	}
	k := bytes.Repeat([]byte{7}, 16)
	k2 := bytes.Repeat([]byte{9}, 16)
	out, err := newMACGuard(k, k2)
	if err != nil {
		t.Fatal(err)
	}
	in, err = newMACGuard(k, k2)
	if err != nil {
		t.Fatal(err)
	}
	return out, in
}

func readerOf(b []byte, in guard, maxMeta, maxPayload int) *frameReader {
	return newFrameReader(&transport{nc: nullConn{r: bytes.NewReader(b)}, in: in}, maxMeta, maxPayload, time.Second)
}

// encode makes the bytes of a frame as the outbox writes them.
func encode(g *guard, h header, meta []byte, payload [][]byte) []byte {
	var f outFrame
	f.init(&h, meta, payload)
	f.seal(g)
	b := bytes.Clone(f.head.B)
	for _, p := range f.payload {
		b = append(b, p...)
	}
	f.head.Release()
	return b
}

func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flags := rapid.SampledFrom([]uint16{0, flagCRC, flagMAC}).Draw(t, "flags")
		out, in := guards(t, flags)
		type sent struct {
			h             header
			meta, payload []byte
		}
		var stream []byte
		var want []sent
		for range rapid.IntRange(1, 5).Draw(t, "frames") {
			s := sent{h: header{
				typ:        rapid.SampledFrom([]uint8{typeRequest, typeResponse}).Draw(t, "type"),
				op:         Op(rapid.Uint16().Draw(t, "op")),
				kind:       rapid.Uint16().Draw(t, "kind"),
				deadlineMS: rapid.Uint32().Draw(t, "deadline"),
				id:         rapid.Uint64().Draw(t, "id"),
			}}
			s.meta = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "meta")
			var pieces [][]byte
			for _, n := range rapid.SliceOfN(rapid.IntRange(0, 100<<10), 0, 4).Draw(t, "pieces") {
				pieces = append(pieces, fill(n, uint64(len(stream)+n)))
			}
			s.payload = bytes.Join(pieces, nil)
			stream = append(stream, encode(&out, s.h, s.meta, pieces)...)
			want = append(want, s)
		}
		r := readerOf(stream, in, MaxMeta, MaxPayload)
		for i, w := range want {
			var h header
			if err := r.header(&h); err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
			meta, payload := make([]byte, h.metaLen), make([]byte, h.payloadLen)
			if err := r.body(&h, meta, payload); err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
			if !bytes.Equal(meta, w.meta) || !bytes.Equal(payload, w.payload) {
				t.Fatalf("frame %d: body differs", i)
			}
			w.h.flags, w.h.metaLen, w.h.payloadLen, w.h.bodyCRC = h.flags, len(w.meta), len(w.payload), h.bodyCRC
			if h != w.h || h.flags != flags {
				t.Fatalf("frame %d: header %+v, want %+v", i, h, w.h)
			}
		}
		var h header
		if err := r.header(&h); err != io.EOF {
			t.Fatalf("after the last frame: %v", err)
		}
	})
}

// Equal changes to two chunks of a payload, one block apart, would cancel out in
// a tag of tags if one key made both.
func TestMACOfChunksDoesNotCancel(t *testing.T) {
	payload := fill(2*macChunkBytes, 3)
	for _, shift := range []int{-32, -16, 0, 16, 32} {
		out, in := guards(t, flagMAC)
		b := encode(&out, header{typ: typeRequest, id: 1}, make([]byte, 16), [][]byte{payload}) // tags on block borders
		at := len(b) - len(payload)
		b[at+100*16] ^= 1
		b[at+macChunkBytes+100*16+shift] ^= 1
		r := readerOf(b, in, MaxMeta, MaxPayload)
		var h header
		if err := r.header(&h); err != nil {
			t.Fatal(err)
		}
		if err := r.body(&h, make([]byte, h.metaLen), make([]byte, h.payloadLen)); err == nil {
			t.Fatalf("shift %d: changed payload accepted", shift)
		}
	}
}

func TestFrameRefusals(t *testing.T) {
	fix := func(b []byte) []byte { // a valid header CRC, so that the change itself is judged
		le.PutUint32(b[headerCRCAt:], crcOf(b[:headerCRCAt]))
		return b
	}
	for _, c := range []struct {
		what, want string
		flags      uint16
		change     func(b []byte) []byte
	}{
		{"magic", "magic", flagCRC, func(b []byte) []byte { b[0]++; return b }},
		{"flipped header bit", "header checksum", flagCRC, func(b []byte) []byte { b[20] ^= 1; return b }},
		{"version", "version 2", flagCRC, func(b []byte) []byte { b[4] = 2; return fix(b) }},
		{"type 0", "frame type", flagCRC, func(b []byte) []byte { b[5] = 0; return fix(b) }},
		{"type 4", "frame type", flagCRC, func(b []byte) []byte { b[5] = 4; return fix(b) }},
		{"no CRC flag", "flags", flagCRC, func(b []byte) []byte { b[8] = 0; return fix(b) }},
		{"unknown flag", "flags", flagCRC, func(b []byte) []byte { b[9] = 1; return fix(b) }},
		{"user's request", "a user's request in a frame of type 2", flagCRC, func(b []byte) []byte { b[5], b[40] = typeResponse, 1; return fix(b) }},
		{"meta too long", "meta of", flagCRC, func(b []byte) []byte { le.PutUint32(b[24:], 1001); return fix(b) }},
		{"meta longest", "meta of 4294967295", flagCRC, func(b []byte) []byte { le.PutUint32(b[24:], math.MaxUint32); return fix(b) }},
		{"payload too long", "payload of", flagCRC, func(b []byte) []byte { le.PutUint32(b[28:], 2001); return fix(b) }},
		{"cancel with body", "cancel", flagCRC, func(b []byte) []byte { b[5] = typeCancel; return fix(b) }},
		{"body", "body checksum", flagCRC, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		{"MAC without MAC", "MAC on", flagCRC, func(b []byte) []byte { b[macAt] = 1; return b }},
		{"CRC with MAC", "body checksum on", flagMAC, func(b []byte) []byte { b[32] = 1; return fix(b) }},
		{"MAC", "authentication", flagMAC, func(b []byte) []byte { b[macAt] ^= 1; return b }},
		{"truncated header", "EOF", flagCRC, func(b []byte) []byte { return b[:63] }},
		{"truncated body", "EOF", flagCRC, func(b []byte) []byte { return b[:len(b)-1] }},
		{"no body", "EOF", flagCRC, func(b []byte) []byte { return b[:headerLen] }},
	} {
		out, in := guards(t, c.flags)
		b := c.change(encode(&out, header{typ: typeRequest, id: 1}, []byte("meta"), [][]byte{[]byte("payload")}))
		r := readerOf(b, in, 1000, 2000)
		var h header
		err := r.header(&h)
		if err == nil {
			err = r.body(&h, make([]byte, h.metaLen), make([]byte, h.payloadLen))
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}

// FuzzFrame feeds a reader arbitrary bytes. It must end with an error or EOF, allocate no more than the limits
// allow, and accept only what the encoder would have produced.
func FuzzFrame(f *testing.F) {
	for _, flags := range []uint16{0, flagCRC, flagMAC} {
		out, _ := guards(f, flags)
		b := encode(&out, header{typ: typeRequest, op: 3, id: 1, deadlineMS: 10}, []byte("meta"), [][]byte{[]byte("payload")})
		b = append(b, encode(&out, header{typ: typeCancel, id: 1}, nil, nil)...)
		b = append(b, encode(&out, header{typ: typeResponse, op: 3, id: 1, kind: 5}, []byte{1, 'x', 'y'}, nil)...)
		f.Add(flags, b)
		f.Add(flags, b[:len(b)-1])
		f.Add(flags, b[:headerLen+2])
		f.Add(flags, b[1:])
	}
	f.Fuzz(func(t *testing.T, flags uint16, b []byte) {
		flags &= flagCRC | flagMAC
		if flags == flagCRC|flagMAC {
			flags = flagCRC
		}
		const maxMeta, maxPayload = 4096, 16384
		out, in := guards(t, flags)
		// Fuzzed bytes rarely have a right CRC; repair the first header's so that what follows it is reached.
		if len(b) > headerLen && b[len(b)-1]&1 == 0 {
			b = bytes.Clone(b)
			le.PutUint32(b, frameMagic)
			le.PutUint32(b[headerCRCAt:], crcOf(b[:headerCRCAt]))
		}
		r := readerOf(b, in, maxMeta, maxPayload)
		for at := 0; ; {
			var h header
			if err := r.header(&h); err != nil {
				return
			}
			if h.metaLen > maxMeta || h.payloadLen > maxPayload {
				t.Fatalf("accepted lengths %d+%d", h.metaLen, h.payloadLen)
			}
			meta, payload := make([]byte, h.metaLen), make([]byte, h.payloadLen)
			if err := r.body(&h, meta, payload); err != nil {
				return
			}
			h.bodyCRC = 0
			again := encode(&out, h, meta, [][]byte{payload})
			if !bytes.Equal(again, b[at:at+len(again)]) {
				t.Fatalf("accepted at %d what is encoded otherwise", at)
			}
			at += len(again)
			if h.typ == typeResponse && h.kind != 0 {
				if err := decodeError(h.kind, meta); !Answered(err) || err.Error() == "" {
					t.Fatalf("error reply decoded to %v", err)
				}
			}
		}
	})
}

// FuzzHello does the same for the hello message.
func FuzzHello(f *testing.F) {
	for _, m := range []Mode{ModeTLS, ModeInsecure} {
		b, err := hello{mode: m, maxMeta: 1, maxPayload: 2, calls: 3, self: Peer{"n", []string{"a", "b"}}}.append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []Mode{ModeTLS, ModeMAC, ModeInsecure} {
			h, err := readHello(bytes.NewReader(b), m)
			if err != nil {
				continue
			}
			again, err := h.append(nil)
			if err != nil {
				t.Fatalf("accepted hello cannot be made: %v", err)
			}
			h2, err := readHello(bytes.NewReader(again), m)
			if err != nil || h2.self.Name != h.self.Name || len(h2.self.Roles) != len(h.self.Roles) || h2.calls != h.calls {
				t.Fatalf("%+v became %+v, %v", h, h2, err)
			}
		}
	})
}

func TestRecordConnStopsAtTheRecord(t *testing.T) {
	record := func(n int) []byte { return append([]byte{22, 3, 3, byte(n >> 8), byte(n)}, fill(n, uint64(n))...) }
	tls := bytes.Join([][]byte{record(1), record(0), record(300), record(16384)}, nil)
	rest := []byte("frames follow")
	src := bytes.NewReader(append(bytes.Clone(tls), rest...))
	c := &recordConn{Conn: nullConn{r: src}}
	var got []byte
	for buf := make([]byte, 64<<10); len(got) < len(tls); {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, tls) {
		t.Fatal("records differ")
	}
	if left, _ := io.ReadAll(src); !bytes.Equal(left, rest) {
		t.Fatalf("%d bytes left behind the records, want %d", len(left), len(rest))
	}
}

func TestBufClasses(t *testing.T) {
	for _, n := range []int{0, 1, 512, 513, 1 << 20, 1<<20 + 1, 1 << 23, 1<<23 + 1} {
		b := GetBuf(n)
		if len(b.B) != n {
			t.Errorf("GetBuf(%d) has %d bytes", n, len(b.B))
		}
		b.Release()
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("second Release of %d bytes went unnoticed", n)
				}
			}()
			b.Release()
		}()
	}
	(*Buf)(nil).Release()
}
