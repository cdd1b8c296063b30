// Package blockstore keeps the bytes of files: immutable blocks, erasure-coded
// into shards, on block servers.
//
// # Terms
//
// A block is an immutable piece of one file, at most 4 MiB. It has an id
// that is never reused and lives in one placement group (PG), an ordered list of k+m slots on
// distinct failure domains. Its shards are stored on the targets of these
// slots: shard i on slot i. Overwriting a file writes new blocks, never old ones.
//
// # Geometry
//
// ShapeOf is the one function that says how a block of n bytes is cut, from n and the PG's
// k and m. It has d = min(k, ceil(n / 32 KiB)) data shards of equal size L, contiguous in
// the file, and m parity shards of size L. L is n/d rounded up to 4 KiB, so
// that an aligned page of a file lies in one page of one shard; where rounding by 4 KiB would
// leave the last data shard without data (possible from k=10 on, for blocks not
// much longer than k x 32 KiB), it is n/d rounded up to 512 bytes. The last data shard is
// padded with zeros. Data shards d..k-1 count as zero and are
// not stored. Parity is that of the k+m Reed-Solomon code (GF(2^8), polynomial 0x11d,
// systematic Vandermonde matrix), whatever d is, so there is one code and one
// repair path for all sizes. RS works byte by byte: a range of one shard is
// rebuilt from the same range of any k others, zero ones included.
//
// # Parts
//
//   - segment: the format of a store's log and its scan.
//   - store: one disk. Put returns after the fdatasync that covers it.
//   - server: stores behind internal/wire.
//   - stripe: the client side; cuts, encodes, places, reads, reconstructs.
//
// # Protocol
//
// Requests carry (disk, PG, epoch, block, shard), see proto.go. A gateway writes a
// block by a Put to each stored slot and counts it as written when all of them
// were acknowledged under one epoch. If any fails the attempt is abandoned and made
// again on another PG; what the first one left behind is never
// referenced and is deleted once the metadata shard declares the block dead, or alive in another PG.
// Stores refuse a Put with an epoch older than the newest they know of the PG, by a Put or by Fence.
//
// Errors have the kinds of package vfs: KindNotFound for a shard that is not
// there, KindCorrupt for one that fails its checks (an erasure to the
// client), KindFenced for an old epoch, KindNoSpace for a full disk, KindExists for
// a shard that exists with other content.
//
// # Invariants
//
//   - An acknowledged Put survives a crash at any later moment. One that was not
//     acknowledged is absent or intact afterwards, never garbage.
//   - Every byte that a Get returns was checked against the CRC made when it arrived.
//   - A shard is deleted only by Delete; who may call that is decided above this package.
package blockstore
