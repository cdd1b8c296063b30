package segment

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/rackfs/rackfs/vfs"
	"pgregory.net/rapid"
)

var testHeader = Header{
	State: StateUsed, File: 7, Size: 1 << 20, Incarnation: 42, Salt: 0xfeedface,
	Cluster: ID{1, 2, 3}, Store: ID{9},
}

// put writes a record into image and returns where it ends.
func put(image []byte, h *Header, r Record, data []byte) int64 {
	r.Length = uint32(len(data))
	hdr := EncodeRecord(make([]byte, HeaderLen(len(data))), h, &r, PageCRCs(nil, data))
	n := copy(image[r.Offset:], hdr)
	n += copy(image[r.Offset+int64(n):], data)
	n += copy(image[r.Offset+int64(n):], Padding(len(data)))
	return r.Offset + int64(n)
}

func scanAll(t interface{ Fatal(...any) }, image []byte, h *Header, from int64) ([]Record, [][]byte, ScanResult) {
	var recs []Record
	var datas [][]byte
	res, err := Scan(context.Background(), bytes.NewReader(image), h, from, func(r Record, data []byte) error {
		recs = append(recs, r)
		datas = append(datas, bytes.Clone(data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return recs, datas, res
}

func TestHeader(t *testing.T) {
	p := testHeader.Encode()
	h, ok, err := DecodeHeader(p)
	if !ok || err != nil || h != testHeader {
		t.Fatalf("%+v %v %v", h, ok, err)
	}
	for i := range 128 {
		q := bytes.Clone(p)
		q[i] ^= 0x10
		if _, ok, err := DecodeHeader(q); ok || err != nil {
			t.Fatalf("flipped bit in byte %d: ok %v, err %v", i, ok, err)
		}
	}
	if _, ok, err := DecodeHeader(make([]byte, HeaderSize)); ok || err != nil {
		t.Fatal("a page of zeros passes for a header")
	}
	le.PutUint16(p[8:], 2)
	le.PutUint32(p[124:], PageCRCs(nil, p[:124])[0])
	if _, _, err := DecodeHeader(p); vfs.KindOf(err) != vfs.KindIncompatible {
		t.Fatalf("newer version: %v", err)
	}
}

// The layout is a contract with disks already written: these bytes never change.
func TestRecordGolden(t *testing.T) {
	r := Record{Kind: KindShard, Shard: 3, K: 4, M: 2, PG: 0x11, Epoch: 0x22, Block: 0x33, BlockLen: 9000, Length: 5000,
		Owner: Owner{FS: 0x44, Ino: 0x55, Offset: 0x66000}, Offset: 8192}
	data := bytes.Repeat([]byte{0xab}, 5000)
	p := EncodeRecord(make([]byte, 4096), &testHeader, &r, PageCRCs(nil, data))
	if len(p) != 4096 {
		t.Fatalf("header of %d bytes", len(p))
	}
	want := map[int]uint64{0: 0x0301000143524b52, 16: 42, 24: 8192, 48: 0x2200000011, 56: 0x33, 64: 0x4400000204, 72: 0x55, 80: 0x66000, 88: 9000}
	for off, v := range want {
		if got := le.Uint64(p[off:]); got != v {
			t.Errorf("bytes %d-%d: %#x, want %#x", off, off+7, got, v)
		}
	}
	if got := le.Uint32(p[8:]); got != goldenHeaderCRC {
		t.Errorf("header CRC %#x, want %#x", got, goldenHeaderCRC)
	}
	got, crcs, ok := DecodeRecord(p, &testHeader, 8192)
	if !ok || got != r || !crcs.Check(0, data) || crcs.Check(0, data[1:]) || !crcs.Check(1, data[4096:]) {
		t.Fatalf("%+v %v", got, ok)
	}
}

func TestRecordLengths(t *testing.T) {
	for _, c := range []struct{ n, header, record int }{
		{0, 4096, 4096}, {1, 4096, 8192}, {4096, 4096, 8192}, {4097, 4096, 12288}, {1 << 20, 4096, 4096 + 1<<20},
		{992 * 4096, 4096, 993 * 4096}, {993 * 4096, 8192, 995 * 4096}, {MaxData, 8192, 8192 + MaxData},
	} {
		if h, r := HeaderLen(c.n), RecordLen(c.n); h != c.header || r != c.record {
			t.Errorf("%d bytes: header %d, record %d, want %d, %d", c.n, h, r, c.header, c.record)
		}
	}
	if MaxRecordHeader != HeaderLen(MaxData) {
		t.Errorf("MaxRecordHeader is %d", MaxRecordHeader)
	}
}

// A header is only accepted by the segment, incarnation and place it was written for.
func TestRecordForeign(t *testing.T) {
	image := make([]byte, 1<<16)
	put(image, &testHeader, Record{Kind: KindShard, Offset: 8192}, []byte("hello"))
	p := image[8192:]
	if _, _, ok := DecodeRecord(p, &testHeader, 8192); !ok {
		t.Fatal("own record refused")
	}
	for name, f := range map[string]func(h *Header, off *int64){
		"other place":       func(_ *Header, off *int64) { *off = 4096 },
		"other incarnation": func(h *Header, _ *int64) { h.Incarnation++ },
		"other salt":        func(h *Header, _ *int64) { h.Salt++ },
		"other cluster":     func(h *Header, _ *int64) { h.Cluster[0]++ },
		"too small":         func(h *Header, _ *int64) { h.Size = 8192 + 8192 },
	} {
		h, off := testHeader, int64(8192)
		f(&h, &off)
		if _, _, ok := DecodeRecord(p, &h, off); ok {
			t.Errorf("%s: accepted", name)
		}
	}
	for i := range recordFixed + 4 {
		q := bytes.Clone(p[:4096])
		q[i] ^= 4
		if _, _, ok := DecodeRecord(q, &testHeader, 8192); ok {
			t.Errorf("flipped bit in byte %d: accepted", i)
		}
	}
}

func TestLists(t *testing.T) {
	keys := []Key{{1, 2, 3}, {4, 5, 6}}
	if got := DecodeKeys(append(AppendKeys(nil, keys), 1, 2, 3)); !reflect.DeepEqual(got, keys) {
		t.Fatal(got)
	}
	epochs := []Epoch{{1, 2}, {3, 4}}
	if got := DecodeEpochs(append(AppendEpochs(nil, epochs), 1)); !reflect.DeepEqual(got, epochs) {
		t.Fatal(got)
	}
}

// Scan against a model: records are written at consecutive places, some only in part or not at all, over
// the remains of an older incarnation; exactly the whole ones are found, whatever lies between them.
func TestScanModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 1))
		h := testHeader
		h.Size = int64(1<<20 + rng.IntN(3)<<20)
		image := make([]byte, h.Size)
		old := h
		old.Incarnation, old.Salt = 41, 77
		for off := int64(HeaderSize); ; {
			data := make([]byte, rng.IntN(20000))
			if off+int64(RecordLen(len(data))) > h.End() {
				break
			}
			off = put(image, &old, Record{Kind: KindShard, Block: 999, Offset: off}, data)
		}
		var want []Record
		end, torn := int64(HeaderSize), 0
		for off := int64(HeaderSize); ; {
			n := []int{0, 1, 4096, 5000, 70000, 1 << 20, 1<<20 + 5000}[rng.IntN(7)]
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			r := Record{Kind: KindShard, Shard: uint8(rng.IntN(6)), Block: rng.Uint64(), PG: 5, Epoch: 6, Offset: off, Length: uint32(n)}
			next := off + int64(RecordLen(n))
			if next > h.End() || rng.IntN(12) == 0 {
				break
			}
			before := bytes.Clone(image[off:next])
			put(image, &h, r, data)
			switch headerEnd := off + int64(HeaderLen(n)); rng.IntN(5) {
			case 0: // never written
				copy(image[off:next], before)
			case 1: // data on disk, header not
				copy(image[off:headerEnd], before)
			case 2: // header on disk, a page of data not
				if n > 0 {
					i := headerEnd + int64(rng.IntN((n+4095)/4096))*4096
					copy(image[i:min(i+4096, next)], bytes.Repeat([]byte{^data[i-headerEnd]}, 4096))
					torn++
					end = next
					break
				}
				fallthrough
			default:
				want = append(want, r)
				end = next
			}
			off = next
		}
		got, _, res := scanAll(t, image, &h, 0)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("found %d records, want %d", len(got), len(want))
		}
		if res.End != end || res.Torn != torn {
			t.Fatalf("end %d torn %d, want %d %d", res.End, res.Torn, end, torn)
		}
		if len(want) > 1 {
			mid := want[len(want)/2].Offset
			if got, _, _ := scanAll(t, image, &h, mid); !reflect.DeepEqual(got, want[len(want)/2:]) {
				t.Fatal("scan from a later record differs")
			}
		}
	})
}

// A user's file may hold a copy of a segment. Behind a lost header such data is what the scan walks over.
func TestScanIgnoresSegmentsInUserData(t *testing.T) {
	h := testHeader
	inner := make([]byte, h.Size)
	innerHeader := h
	innerHeader.Salt++ // the salt is not in the file, so a copy cannot match the segment it is stored in
	end := int64(HeaderSize)
	for range 10 {
		end = put(inner, &innerHeader, Record{Kind: KindShard, Block: 13, Offset: end}, make([]byte, 5000))
	}
	image := make([]byte, h.Size)
	copy(image[HeaderSize:], inner[HeaderSize:end]) // same places, same incarnation
	put(image, &h, Record{Kind: KindShard, Block: 14, Offset: end}, []byte("x"))
	got, _, _ := scanAll(t, image, &h, 0)
	if len(got) != 1 || got[0].Block != 14 {
		t.Fatalf("%+v", got)
	}
}

type badSector struct {
	*bytes.Reader
	from, to int64
}

func (b badSector) ReadAt(p []byte, off int64) (int, error) {
	if off < b.to && off+int64(len(p)) > b.from {
		return 0, errors.New("medium error")
	}
	return b.Reader.ReadAt(p, off)
}

func TestScanUnreadable(t *testing.T) {
	image := make([]byte, testHeader.Size)
	var offs []int64
	for off := int64(HeaderSize); len(offs) < 6; {
		offs = append(offs, off)
		off = put(image, &testHeader, Record{Kind: KindShard, Block: uint64(len(offs)), Offset: off}, make([]byte, 9000))
	}
	bad := badSector{bytes.NewReader(image), offs[2] + 512, offs[2] + 1024}
	var got []uint64
	res, err := Scan(context.Background(), bad, &testHeader, 0, func(r Record, _ []byte) error {
		got = append(got, r.Block)
		return nil
	})
	if err != nil || !reflect.DeepEqual(got, []uint64{1, 2, 4, 5, 6}) || res.Unreadable != 1 {
		t.Fatalf("found %v, unreadable %d, err %v", got, res.Unreadable, err)
	}
}

func TestScanStops(t *testing.T) {
	image := make([]byte, testHeader.Size)
	put(image, &testHeader, Record{Kind: KindShard, Offset: HeaderSize}, make([]byte, 9000))
	stop := errors.New("stop")
	if _, err := Scan(context.Background(), bytes.NewReader(image), &testHeader, 0, func(Record, []byte) error { return stop }); err != stop {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Scan(ctx, bytes.NewReader(image), &testHeader, 0, func(Record, []byte) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// FuzzScan (run it with -fuzzminimizetime 1x, inputs are large): whatever a segment holds, a scan ends, reports records that lie inside it, in order and apart,
// and their data matches what they say.
func FuzzScan(f *testing.F) {
	h := testHeader
	h.Size = 1 << 16
	seed := func(mut func(p []byte)) {
		image := make([]byte, h.Size)
		end := put(image, &h, Record{Kind: KindShard, Block: 1, Offset: HeaderSize}, []byte("first"))
		end = put(image, &h, Record{Kind: KindDeletions, Offset: end}, AppendKeys(nil, []Key{{1, 1, 0}}))
		end = put(image, &h, Record{Kind: KindEpochs, Offset: end}, AppendEpochs(nil, []Epoch{{1, 2}}))
		put(image, &h, Record{Kind: KindShard, Block: 2, Offset: end}, bytes.Repeat([]byte{3}, 9000))
		mut(image[HeaderSize:])
		f.Add(image[HeaderSize:])
	}
	seed(func([]byte) {})
	seed(func(p []byte) { clear(p[:4096]) })                    // first header lost
	seed(func(p []byte) { p[4096] ^= 1 })                       // first data torn
	seed(func(p []byte) { le.PutUint32(p[12:], 0xffffffff) })   // absurd length
	seed(func(p []byte) { le.PutUint32(p[12:], MaxData) })      // longer than the segment
	seed(func(p []byte) { copy(p[4096:], p[:4096]) })           // a header as data, at another place
	seed(func(p []byte) { p[6] = 9 })                           // unknown kind
	seed(func(p []byte) { le.PutUint64(p[16:], 41) })           // older incarnation
	seed(func(p []byte) { copy(p[3*4096:], p[2*4096:8*4096]) }) // shifted by a page
	f.Fuzz(func(t *testing.T, body []byte) {
		image := append(h.Encode(), body...)
		hh := h
		if len(image) < int(h.Size) {
			hh.Size = int64(len(image))
		}
		last := int64(HeaderSize)
		recs, datas, res := scanAll(t, image, &hh, 0)
		for i, r := range recs {
			end := r.Offset + int64(RecordLen(int(r.Length)))
			if r.Offset < last || r.Offset%PageSize != 0 || end > hh.End() || len(datas[i]) != int(r.Length) {
				t.Fatalf("record %+v ends at %d after %d of %d", r, end, last, hh.Size)
			}
			DecodeKeys(datas[i])
			DecodeEpochs(datas[i])
			last = end
		}
		if res.End < last || res.End > max(hh.Size, HeaderSize) {
			t.Fatalf("end %d after record end %d, size %d", res.End, last, hh.Size)
		}
	})
}

const goldenHeaderCRC = 0xc57ab824
