package stripe

import (
	"bytes"
	"testing"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/placement"
)

// gf is GF(2^8) with the polynomial x^8+x^4+x^3+x^2+1, the slow and obvious way.
func gfMul(a, b byte) (p byte) {
	for ; b > 0; b >>= 1 {
		if b&1 == 1 {
			p ^= a
		}
		carry := a&0x80 != 0
		if a <<= 1; carry {
			a ^= 0x1d
		}
	}
	return p
}

func gfPow(a byte, n int) byte {
	p := byte(1)
	for range n {
		p = gfMul(p, a)
	}
	return p
}

func gfInv(a byte) byte { return gfPow(a, 254) }

// parityMatrix is rows k..k+m-1 of the Vandermonde matrix V[r][c] = r^c times the inverse of its first k rows.
func parityMatrix(k, m int) [][]byte {
	// Gauss-Jordan on the top rows beside the identity.
	a := make([][]byte, k)
	for r := range a {
		a[r] = make([]byte, 2*k)
		for c := range k {
			a[r][c] = gfPow(byte(r), c)
		}
		a[r][k+r] = 1
	}
	for i := range k {
		for p := i; a[i][i] == 0; p++ {
			a[i], a[p] = a[p], a[i]
		}
		f := gfInv(a[i][i])
		for c := range a[i] {
			a[i][c] = gfMul(a[i][c], f)
		}
		for r := range a {
			if f := a[r][i]; r != i && f != 0 {
				for c := range a[r] {
					a[r][c] ^= gfMul(f, a[i][c])
				}
			}
		}
	}
	out := make([][]byte, m)
	for i := range out {
		out[i] = make([]byte, k)
		for c := range k {
			for j := range k {
				out[i][c] ^= gfMul(gfPow(byte(k+i), j), a[j][k+c])
			}
		}
	}
	return out
}

// Parity is what the documentation of package blockstore says it is, computed here from the definition,
// for every profile: anybody can write a program that rescues data without our encoder.
func TestCodeIsTheDocumentedOne(t *testing.T) {
	cl := New(Options{})
	for k := 1; k <= placement.MaxData; k++ {
		for m := 1; m <= placement.MaxParity; m++ {
			data := randomBytes(uint64(k*100+m), 100+k*40000, 0)
			s, err := blockstore.ShapeOf(len(data), k, m)
			if err != nil {
				t.Fatal(err)
			}
			shards, scratch, err := cl.encode(s, data, nil)
			if err != nil {
				t.Fatal(err)
			}
			rows := parityMatrix(k, m)
			for at := 0; at < s.ShardLen; at += 997 {
				for i, row := range rows {
					var want byte
					for j := range s.Data {
						if off := j*s.ShardLen + at; off < len(data) {
							want ^= gfMul(row[j], data[off])
						}
					}
					if got := shards[k+i][at]; got != want {
						t.Fatalf("%d+%d, parity %d, byte %d: %#x, want %#x", k, m, i, at, got, want)
					}
				}
			}
			if !bytes.Equal(shards[0][:100], data[:100]) {
				t.Fatal("the code is not systematic")
			}
			scratch.Release()
		}
	}
}
