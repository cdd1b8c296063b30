package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

const page = 4 << 10

// quotaRig is a volume with limits.
type quotaRig struct {
	*crashing
	t tb
}

func newQuotaRig(t *testing.T, cfg volume.Config) *quotaRig {
	return &quotaRig{crashing: newCrashing(t, cfg), t: t}
}

// admin runs a command as an administrator would, past the volume.
func (r *quotaRig) admin(cmd *metapb.Command) *metapb.Result {
	r.t.Helper()
	cmd.Fs = testFS
	res, err := r.gw.Apply(ctx, testShard, cmd)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

func (r *quotaRig) limit(project uint32, bytes uint64) {
	r.t.Helper()
	r.admin(&metapb.Command{Op: &metapb.Command_SetQuota{SetQuota: &metapb.SetQuota{Project: project, Bytes: bytes}}})
}

// project makes a directory of a project.
func (r *quotaRig) project(id uint32) vfs.Ino {
	r.t.Helper()
	mode := uint32(0o777)
	d, err := r.MakeNode(ctx, &vfs.Root, vfs.RootIno, fmt.Sprintf("project%d", id), vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: &mode}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.admin(&metapb.Command{Op: &metapb.Command_SetProject{SetProject: &metapb.SetProject{Dir: uint64(d.Attr.Ino), Project: id}}})
	return d.Attr.Ino
}

func (r *quotaRig) file(dir vfs.Ino, name string) vfs.Ino {
	r.t.Helper()
	mode := uint32(0o600)
	f, err := r.Create(ctx, &vfs.Root, dir, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}})
	if err != nil {
		r.t.Fatal(err)
	}
	return f.Attr.Ino
}

// write returns how much was accepted; what was not must be for want of quota.
func (r *quotaRig) write(ino vfs.Ino, off uint64, p []byte, s vfs.Stable) int {
	r.t.Helper()
	before := r.verifier(ino)
	_, _, err := r.Write(ctx, &vfs.Root, ino, off, p, s)
	if after := r.verifier(ino); after != before {
		r.t.Fatalf("bytes were accepted and then lost: %v", err)
	}
	var short *vfs.ShortWrite
	switch {
	case err == nil:
		return len(p)
	case vfs.KindOf(err) != vfs.KindQuota:
		r.t.Fatal(err)
	case errors.As(err, &short):
		return short.N
	}
	return 0
}

// verifier is that of an empty write.
func (r *quotaRig) verifier(ino vfs.Ino) vfs.Verifier {
	r.t.Helper()
	_, v, err := r.Write(ctx, &vfs.Root, ino, 0, nil, vfs.Unstable)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r *quotaRig) commit(ino vfs.Ino) {
	r.t.Helper()
	if _, err := r.Commit(ctx, ino, 0, 0); err != nil {
		r.t.Fatal(err)
	}
}

func (r *quotaRig) truncate(ino vfs.Ino, size uint64) {
	r.t.Helper()
	if _, err := r.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Size: &size}, true); err != nil {
		r.t.Fatal(err)
	}
}

func (r *quotaRig) remove(dir vfs.Ino, name string) {
	r.t.Helper()
	if _, err := r.Remove(ctx, &vfs.Root, dir, name, vfs.RemoveFile); err != nil {
		r.t.Fatal(err)
	}
}

// quota is what the metadata counts.
func (r *quotaRig) quota(project uint32) *metapb.Quota {
	r.t.Helper()
	res, err := r.gw.Query(ctx, testShard, &metapb.Query{Fs: testFS, Q: &metapb.Query_Quotas{Quotas: &metapb.QuotasQ{From: project, Limit: 1}}})
	if err != nil {
		r.t.Fatal(err)
	}
	return res.GetQuotas().Quotas[0]
}

func (r *quotaRig) check() {
	r.t.Helper()
	r.meta.mu.Lock()
	defer r.meta.mu.Unlock()
	if err := fsm.Check(r.meta.store); err != nil {
		r.t.Fatal(err)
	}
}

// TestQuotaAtWrite fills 64 MiB as a kernel client does, by UNSTABLE writes of 1 MiB and COMMIT at the end: they are
// refused within a page of the limit, the COMMIT is not, what exists can be overwritten, and what is given up is there
// again at once.
func TestQuotaAtWrite(t *testing.T) {
	for _, where := range []string{"project", "file system"} {
		t.Run(where, func(t *testing.T) {
			r := newQuotaRig(t, volume.Config{})
			dir, project := r.project(1), uint32(1)
			limit := uint64(64<<20 + 100) // not a multiple of anything
			if where == "file system" {
				dir, project = vfs.RootIno, 0
				limit = 32<<20 + 100
			}
			r.limit(project, limit)
			fill := func(ino vfs.Ino) (n uint64) {
				p := bytes.Repeat([]byte{7}, 1<<20)
				for {
					m := r.write(ino, n, p, vfs.Unstable)
					if n += uint64(m); m < len(p) {
						return n
					}
				}
			}
			a := r.file(dir, "a")
			if n := fill(a); n < limit-page || n > limit {
				t.Fatalf("%d bytes were accepted, the limit is %d", n, limit)
			}
			r.commit(a)
			if q := r.quota(project); q.UsedBytes < limit-page || q.UsedBytes > limit {
				t.Fatalf("%v", q)
			}
			r.check()
			// Everything can be overwritten, in any alignment, whether its extents are known or not.
			if n := r.write(a, 3, make([]byte, 10<<20), vfs.Unstable); n != 10<<20 {
				t.Fatalf("%d bytes overwritten", n)
			}
			r.commit(a)
			r.Crash()
			for r.admin(&metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{}}}).GetPurge().More {
			}
			if n := r.write(a, 20<<20+1, make([]byte, 10<<20), vfs.FileSync); n != 10<<20 {
				t.Fatalf("%d bytes overwritten with extents that are not known", n)
			}
			b := r.file(dir, "b")
			if n := r.write(b, 0, make([]byte, 2*page), vfs.Unstable); n != 0 {
				t.Fatalf("%d bytes beyond the limit", n)
			}
			// What goes makes room at once.
			r.truncate(a, 0)
			if n := fill(b); n < limit-page || n > limit {
				t.Fatalf("%d bytes were accepted after a truncation", n)
			}
			r.remove(dir, "b") // never flushed
			if n := fill(a); n < limit-page || n > limit {
				t.Fatalf("%d bytes were accepted after an unlink", n)
			}
			r.commit(a)
			r.remove(dir, "a")
			c := r.file(dir, "c")
			if n := fill(c); n < limit-page || n > limit {
				t.Fatalf("%d bytes were accepted after another unlink", n)
			}
			r.commit(c)
			r.check()
		})
	}
}

// TestQuotaIsSetDuringWrites: what was acknowledged before stays, what comes after is refused, and so is none of it at Commit.
func TestQuotaIsSetDuringWrites(t *testing.T) {
	r := newQuotaRig(t, volume.Config{})
	dir := r.project(1)
	ino := r.file(dir, "f")
	p := bytes.Repeat([]byte{3}, 1<<20)
	for i := range uint64(3) {
		r.write(ino, i<<20, p, vfs.Unstable)
	}
	r.limit(1, 2<<20)
	r.commit(ino)
	if q := r.quota(1); q.UsedBytes != 3<<20 {
		t.Fatalf("%v", q)
	}
	if n := r.write(ino, 3<<20, p, vfs.Unstable); n != 0 {
		t.Fatalf("%d bytes accepted above the limit", n)
	}
	r.limit(1, 0)
	if n := r.write(ino, 3<<20, p, vfs.FileSync); n != len(p) {
		t.Fatalf("%d bytes accepted after the limit was taken away", n)
	}
}

// TestQuotaOfMergedPages: overwriting ten bytes adds ten more where that fills the hole between inline pieces of a
// page. That is known before the bytes are accepted.
func TestQuotaOfMergedPages(t *testing.T) {
	r := newQuotaRig(t, volume.Config{})
	ino := r.file(vfs.RootIno, "f")
	r.write(ino, 20, fill(10, 2), vfs.FileSync) // inline
	r.write(ino, 0, fill(10, 1), vfs.Unstable)
	r.write(ino, 1<<20, fill(2*page, 3), vfs.Unstable)
	r.commit(ino) // blocks
	r.limit(0, 20+2*page)
	// Of a file system that is idle it is asked again whether there is a limit; here it is not idle.
	r.write(ino, 1<<20, fill(1, 4), vfs.FileSync)
	if n := r.write(ino, 0, fill(10, 5), vfs.Unstable); n != 0 {
		t.Fatalf("%d bytes accepted", n)
	}
	r.limit(0, 30+2*page+page)
	if n := r.write(ino, 0, fill(10, 5), vfs.FileSync); n != 10 {
		t.Fatalf("%d bytes accepted", n)
	}
	if q := r.quota(0); q.UsedBytes != 30+2*page {
		t.Fatalf("%v", q)
	}
	r.limit(0, 30+2*page)
	if n := r.write(ino, 5, fill(20, 7), vfs.FileSync); n != 20 {
		t.Fatalf("%d bytes of a page that is whole accepted", n)
	}
	if got := read(t, r, ino, 0, 30); !bytes.Equal(got, slices.Concat(fill(5, 5), fill(20, 7), fill(5, 2))) {
		t.Fatalf("%v", got)
	}
}

// TestQuotaAllocate: what was allocated can be written at a full quota, and allocating stops at the limit.
func TestQuotaAllocate(t *testing.T) {
	r := newQuotaRig(t, volume.Config{})
	dir := r.project(1)
	r.limit(1, 1<<20)
	ino := r.file(dir, "f")
	r.write(ino, 0, fill(10, 1), vfs.FileSync)
	alloc := func(n uint64) error { return r.volume().Allocate(ctx, &vfs.Root, ino, 0, n) }
	want(t, vfs.KindQuota, alloc(2<<20))
	if err := alloc(1 << 20); err != nil {
		t.Fatal(err)
	}
	other := r.file(dir, "other")
	if n := r.write(other, 0, fill(1, 1), vfs.Unstable); n != 0 {
		t.Fatalf("%d bytes beyond the limit", n)
	}
	for _, off := range []uint64{0, 5, 12345, 1<<20 - 5000} {
		if n := r.write(ino, off, fill(5000, 2), vfs.Unstable); n != 5000 {
			t.Fatalf("%d bytes at %d of an allocated range accepted", n, off)
		}
	}
	r.commit(ino)
	if q := r.quota(1); q.UsedBytes != 1<<20 {
		t.Fatalf("%v", q)
	}
	r.check()
}

// TestQuotaClone clones into a project as much as its limit leaves, of which the gateway has reserved a part ahead.
func TestQuotaClone(t *testing.T) {
	r := newQuotaRig(t, volume.Config{})
	d := r.project(1)
	const limit, used = 1 << 20, 16 * page
	src := r.file(vfs.RootIno, "src")
	r.write(src, 0, random(limit-used, 1), vfs.FileSync)
	r.limit(1, limit)
	r.write(r.file(d, "f"), 0, make([]byte, used), vfs.FileSync)
	dst := r.file(d, "dst")
	if q := r.quota(1); q.ReservedBytes == 0 {
		t.Fatal("nothing is reserved ahead")
	}
	if err := r.Clone(ctx, &vfs.Root, src, 0, dst, 0, 0); err != nil {
		t.Fatal(err)
	}
	more := r.file(d, "more")
	if err := r.Clone(ctx, &vfs.Root, src, 0, more, 0, page); vfs.KindOf(err) != vfs.KindQuota {
		t.Fatalf("beyond the limit: %v", err)
	}
	if q := r.quota(1); q.UsedBytes != limit {
		t.Fatalf("%d bytes used", q.UsedBytes)
	}
	r.check()
}

// TestQuotaOfInodes: a refused create leaves nothing behind.
func TestQuotaOfInodes(t *testing.T) {
	r := newQuotaRig(t, volume.Config{})
	dir := r.project(1)
	r.admin(&metapb.Command{Op: &metapb.Command_SetQuota{SetQuota: &metapb.SetQuota{Project: 1, Inodes: 2}}})
	r.file(dir, "f")
	if _, err := r.Create(ctx, &vfs.Root, dir, "g", vfs.CreateArgs{}); vfs.KindOf(err) != vfs.KindQuota {
		t.Fatal(err)
	}
	s, err := r.StatFS(ctx, dir)
	if err != nil || s.TotalFiles != 2 || s.FreeFiles != 0 || s.UsedFiles != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	r.remove(dir, "f")
	r.file(dir, "g")
}

// TestQuotaStatFS: what is free is what can be written, and reservations that nobody uses do not count.
func TestQuotaStatFS(t *testing.T) {
	r := newQuotaRig(t, volume.Config{})
	dir := r.project(1)
	r.limit(1, 10<<20)
	r.limit(0, 100<<20)
	ino := r.file(dir, "f")
	r.write(ino, 0, make([]byte, 1<<20), vfs.Unstable)
	want := func(at vfs.Ino, total, used uint64) {
		t.Helper()
		s, err := r.StatFS(ctx, at)
		if err != nil || s.TotalBytes != total || s.UsedBytes != used || s.FreeBytes != total-used || s.AvailBytes != s.FreeBytes {
			t.Fatalf("%+v, %v, want %d used of %d", s, err, used, total)
		}
	}
	want(ino, 10<<20, 1<<20)
	r.commit(ino)
	want(ino, 10<<20, 1<<20)
	want(dir, 10<<20, 1<<20)
	want(vfs.RootIno, 100<<20, 1<<20)
	r.limit(1, 200<<20) // the file system leaves less
	s, err := r.StatFS(ctx, dir)
	if err != nil || s.FreeBytes != 99<<20 {
		t.Fatalf("%+v, %v", s, err)
	}
}

// TestQuotaGoesBack: a clean shutdown leaves nothing reserved, a dead gateway what Purge gives back.
func TestQuotaGoesBack(t *testing.T) {
	r := newQuotaRig(t, volume.Config{})
	dir := r.project(1)
	r.limit(1, 64<<20)
	ino := r.file(dir, "f")
	r.write(ino, 0, make([]byte, page), vfs.Unstable)
	if q := r.quota(1); q.ReservedBytes < page {
		t.Fatalf("%v", q)
	}
	r.Crash()
	for r.admin(&metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{}}}).GetPurge().More {
	}
	if q := r.quota(1); q.ReservedBytes != 0 || q.UsedBytes != 0 {
		t.Fatalf("%v", q)
	}
	r.write(ino, 0, make([]byte, page), vfs.Unstable)
	if err := r.volume().Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if q := r.quota(1); q.ReservedBytes != 0 || q.UsedBytes != page {
		t.Fatalf("%v", q)
	}
	r.start()
}

// TestQuotaGoesBackLater shows that what one writer wanted to give back when its caller gave up is not forgotten: it would be
// taken from the limit for as long as the gateway lives.
func TestQuotaGoesBackLater(t *testing.T) {
	r := newQuotaRig(t, volume.Config{})
	a, b := r.project(1), r.project(2)
	r.limit(1, 1<<30)
	r.limit(2, page)
	r.write(r.file(a, "f"), 0, make([]byte, page), vfs.FileSync) // reserves ahead
	full := r.file(b, "g")
	ctx, cancel := context.WithCancel(t.Context())
	given := false
	r.meta.mu.Lock()
	r.meta.fail = func(cmd *metapb.Command) error {
		if cmd.GetReleaseQuota() == nil || given {
			return nil
		}
		given = true
		cancel()
		return ctx.Err() // it did not leave
	}
	r.meta.mu.Unlock()
	_, _, _ = r.Write(ctx, &vfs.Root, full, 0, make([]byte, 2*page), vfs.Unstable)
	if !given {
		t.Fatal("nothing was to be given back")
	}
	if err := r.volume().Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if q := r.quota(1); q.ReservedBytes != 0 {
		t.Fatalf("%d bytes of project 1 stay reserved", q.ReservedBytes)
	}
	r.check()
}

// TestQuotaOriginEnds: a gateway that registers anew reserves anew.
func TestQuotaOriginEnds(t *testing.T) {
	r := newQuotaRig(t, volume.Config{})
	dir := r.project(1)
	r.limit(1, 1<<20)
	ino := r.file(dir, "f")
	r.write(ino, 0, make([]byte, 1<<20), vfs.Unstable)
	r.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: r.gw.origin}}})
	for r.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{}}}).GetPurge().More {
	}
	r.gw.again(t)
	r.volume().Reregistered(r.gw.origin, r.gw.incarnation)
	if _, err := r.Commit(ctx, ino, 0, 0); vfs.KindOf(err) != vfs.KindFenced {
		t.Fatal(err) // the loss is told
	}
	if n := r.write(ino, 0, make([]byte, 2<<20), vfs.Unstable); n != 1<<20 {
		t.Fatalf("%d bytes accepted", n)
	}
	r.commit(ino)
	r.check()
}

// TestQuotaModel writes, truncates, removes and commits at random, near and at small limits. Whatever was accepted is
// committed and reads back, and usage never passes a limit.
func TestQuotaModel(t *testing.T) {
	refused := 0
	defer func() {
		if refused == 0 && !t.Failed() {
			t.Error("nothing was refused: the test shows nothing")
		}
	}()
	rapid.Check(t, func(rt *rapid.T) {
		r := newQuotaRig(t, volume.Config{FlushAge: 1e6, DirtyLimitBytes: 1 << 20})
		defer r.volume().Abandon()
		r.t = rt
		dirs := []vfs.Ino{r.project(1), r.project(2), vfs.RootIno}
		limits := map[uint32]uint64{}
		for p := range uint32(3) {
			if limits[p] = uint64(rapid.IntRange(0, 40).Draw(rt, "limit")) * 1000; limits[p] > 0 {
				r.limit(p, limits[p])
			}
		}
		files := map[string][]byte{}
		at := map[string]vfs.Ino{}
		name := func() (dir int, n string) {
			dir = rapid.IntRange(0, 2).Draw(rt, "dir")
			return dir, fmt.Sprintf("%d-%d", dir, rapid.IntRange(0, 2).Draw(rt, "file"))
		}
		check := func(n string) {
			r.commit(at[n])
			got := make([]byte, len(files[n])+1)
			m, _, err := r.Read(ctx, at[n], 0, got)
			if err != nil || !bytes.Equal(got[:m], files[n]) {
				rt.Fatalf("%s: %d bytes, %v, want %d", n, m, err, len(files[n]))
			}
		}
		serial := byte(0)
		for range rapid.IntRange(10, 60).Draw(rt, "steps") {
			dir, n := name()
			if at[n] == 0 {
				at[n] = r.file(dirs[dir], n)
			}
			switch rapid.IntRange(0, 9).Draw(rt, "op") {
			case 0, 1, 2, 3:
				off := rapid.IntRange(0, 30000).Draw(rt, "off")
				if rapid.Bool().Draw(rt, "append") {
					off = len(files[n])
				}
				size := rapid.SampledFrom([]int{1, 10, 1000, page, 3 * page, 10000}).Draw(rt, "size")
				serial++
				p := bytes.Repeat([]byte{serial}, size)
				m := r.write(at[n], uint64(off), p, rapid.SampledFrom([]vfs.Stable{vfs.Unstable, vfs.FileSync}).Draw(rt, "stable"))
				if m < size {
					refused++
				}
				if m > 0 {
					if need := off + m; need > len(files[n]) {
						files[n] = append(files[n], make([]byte, need-len(files[n]))...)
					}
					copy(files[n][off:], p[:m])
				}
			case 4:
				size := rapid.IntRange(0, 30000).Draw(rt, "size")
				r.truncate(at[n], uint64(size))
				files[n] = append(files[n], make([]byte, 30000)...)[:max(size, 0)]
				files[n] = bytes.Clone(files[n])
			case 5:
				r.remove(dirs[dir], n)
				delete(at, n)
				delete(files, n)
			case 6:
				off, size := rapid.IntRange(0, 30000).Draw(rt, "off"), rapid.IntRange(1, 20000).Draw(rt, "size")
				if err := r.volume().Deallocate(ctx, &vfs.Root, at[n], uint64(off), uint64(size)); err != nil {
					rt.Fatal(err)
				}
				if off < len(files[n]) {
					clear(files[n][off:min(off+size, len(files[n]))])
				}
			case 7:
				off, size := rapid.IntRange(0, 30000).Draw(rt, "off"), rapid.IntRange(1, 20000).Draw(rt, "size")
				switch err := r.volume().Allocate(ctx, &vfs.Root, at[n], uint64(off), uint64(size)); vfs.KindOf(err) {
				case vfs.KindOK:
					files[n] = append(files[n], make([]byte, max(0, off+size-len(files[n])))...)
				case vfs.KindQuota:
					refused++
				default:
					rt.Fatal(err)
				}
			case 8:
				_, from := name()
				src := files[from]
				if at[from] == 0 || from == n || len(src) == 0 {
					continue
				}
				lo := rapid.IntRange(0, (len(src)-1)/page).Draw(rt, "from") * page
				to := rapid.IntRange(0, 6).Draw(rt, "to") * page
				size := len(src) - lo
				if pages := rapid.IntRange(0, 3).Draw(rt, "pages"); pages > 0 && pages*page < size {
					size = pages * page
				}
				before := r.verifier(at[n])
				switch err := r.Clone(ctx, &vfs.Root, at[from], uint64(lo), at[n], uint64(to), uint64(size)); vfs.KindOf(err) {
				case vfs.KindOK:
					files[n] = append(files[n], make([]byte, max(0, to+size-len(files[n])))...)
					copy(files[n][to:], src[lo:lo+size])
				case vfs.KindQuota:
					refused++
				default:
					rt.Fatal(err)
				}
				if r.verifier(at[n]) != before {
					rt.Fatal("a clone lost what was written")
				}
			default:
				check(n)
			}
			for p, limit := range limits {
				if q := r.quota(p); limit > 0 && q.UsedBytes > limit {
					rt.Fatalf("%v", q)
				}
			}
		}
		for n := range at {
			check(n)
		}
		r.check()
		if err := r.volume().Shutdown(ctx); err != nil {
			rt.Fatal(err)
		}
		if q := r.quota(0); q.ReservedBytes != 0 {
			rt.Fatalf("%v is left", q)
		}
	})
}

// TestQuotaManyWriters: writers of several files and projects share what the file system's limit leaves, to the last page.
func TestQuotaManyWriters(t *testing.T) {
	const limit = 8 << 20
	r := newQuotaRig(t, volume.Config{FlushAge: 1e6})
	dirs := []vfs.Ino{r.project(1), r.project(2), r.project(3), vfs.RootIno}
	r.limit(0, limit)
	r.limit(2, 1<<20)
	var wg sync.WaitGroup
	sums := make([]uint64, len(dirs))
	for i, dir := range dirs {
		ino := r.file(dir, fmt.Sprint(i))
		wg.Go(func() {
			for p := make([]byte, 50_000); ; {
				_, _, err := r.Write(ctx, &vfs.Root, ino, sums[i], p, vfs.Unstable)
				var short *vfs.ShortWrite
				switch {
				case err == nil:
					sums[i] += uint64(len(p))
				case errors.As(err, &short) && vfs.KindOf(err) == vfs.KindQuota:
					sums[i] += uint64(short.N)
				case vfs.KindOf(err) == vfs.KindQuota:
					if _, err := r.Commit(ctx, ino, 0, 0); err != nil {
						t.Error(err)
					}
					return
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	total := uint64(0)
	for _, n := range sums {
		total += n
	}
	if total > limit || total < limit-uint64(len(dirs))*page || sums[1] > 1<<20 {
		t.Fatalf("%d bytes of %d were accepted: %v", total, limit, sums)
	}
	r.check()
}
