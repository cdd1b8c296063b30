// Package segment is the on-disk format of a store's log: what a segment file
// and its records look like, how to write them and how to find them again.
// It holds no state and does no I/O besides the scan.
//
// # Layout
//
// A segment is a preallocated file. Its first 4 KiB page is the segment
// header, its last page a copy of it, for without the header no record in it can be checked.
// Records lie between, each starting on a page boundary. All numbers are
// little-endian, all checksums CRC32C.
//
// Segment header (128 bytes, rest of the page zero):
//
//	 0  8 B  magic "RKFSSEG\n"
//	 8  u16  version (1)
//	10  u16  state: 1 free, 2 in use
//	12  u32  file number
//	16  u64  size of the file
//	24  u64  incarnation
//	32  u64  salt
//	40 16 B  cluster id
//	56 16 B  store id
//	72 52 B  zero
//	124 u32  CRC of bytes 0-123
//
// Record: a header of 128 bytes, followed by one CRC per page of data; zero up
// to the next page boundary; then the data; zero up to the next page boundary.
//
//	 0  u32  magic "RKRC"
//	 4  u16  version (1)
//	 6  u8   kind: 1 shard, 2 deletions, 3 epochs
//	 7  u8   shard index
//	 8  u32  CRC of the segment's salt, then of the header with this field zero, with its CRC table
//	12  u32  length of the data
//	16  u64  incarnation of the segment
//	24  u64  offset of the record in the segment
//	32 16 B  cluster id
//	48  u32  placement group
//	52  u32  epoch of the placement group
//	56  u64  block id
//	64  u8   k, u8 m, u16 zero
//	68  u32  file system
//	72  u64  inode
//	80  u64  offset of the block in the file
//	88  u32  length of the block
//	92 36 B  zero
//
// The data of a deletions record is a list of keys (placement group u32, block u64,
// shard u32), of an epochs record a list of (placement group u32, epoch u32).
//
// # Incarnations
//
// Segment files are never unlinked, they are recycled: their old records stay
// in place and are overwritten as the file fills again. The incarnation is a number
// that is raised across the whole store each time a segment is taken into use, so
// it orders segments by age, and old records in a recycled file carry another
// one. A recycled segment's header says free, durably, before it is used again; of two copies with the same
// incarnation the free one counts. The salt is random and drawn with it. It seeds each record's CRC and is
// nowhere else on disk, so that bytes that a user stored cannot pass for a record, not even
// a copy of the very segment they end up in.
//
// # Scan
//
// Many writers fill a segment at once, and one fdatasync covers those whose writes are
// complete. After a crash an acknowledged record may therefore lie behind one that was
// never written or only in part. Scan accepts a page as a record only if the
// whole header checks out (magic, CRC, incarnation, its own offset) and,
// all of its data (Walk looks at headers only); anywhere else it moves on by one page. A header that
// checks out was written by this incarnation for this place, so its length can be
// trusted to skip the record even if its data is torn.
package segment
