package main

import (
	"context"
	"io"
	"sync/atomic"
	"unicode/utf8"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/internal/transfer"
)

const (
	barWidth  = 40 // columns
	nameWidth = 30
)

// bars shows how a transfer goes: a bar for each file that is under way, and one for all that have begun. What is written to it appears above them.
type bars struct {
	io.Writer
	p     *mpb.Progress
	all   *mpb.Bar
	begun atomic.Int64 // bytes
}

func newBars(ctx context.Context, out io.Writer) *bars {
	b := &bars{p: mpb.NewWithContext(ctx, mpb.WithOutput(out), mpb.WithWidth(barWidth))}
	b.Writer = b.p
	b.all = b.bar("total", 0, mpb.BarPriority(1<<30)) // the lowest
	return b
}

func (b *bars) bar(name string, size int64, o ...mpb.BarOption) *mpb.Bar {
	if n := utf8.RuneCountInString(name); n > nameWidth {
		name = "…" + string([]rune(name)[n-nameWidth+1:])
	}
	return b.p.AddBar(size, append(o,
		mpb.PrependDecorators(decor.Name(name, decor.WC{W: nameWidth + 1, C: decor.DindentRight}), decor.CountersKibiByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.AverageSpeed(decor.SizeB1024(0), " % .1f")),
	)...)
}

func (b *bars) begin(a transfer.Action) (moved func(int64), done func()) {
	b.all.SetTotal(b.begun.Add(a.Size), false)
	one := b.bar(files.Path(a.Path).Shown(), a.Size, mpb.BarRemoveOnComplete())
	return func(n int64) {
			one.IncrInt64(n)
			b.all.IncrInt64(n)
		}, func() {
			one.Abort(true) // also of one that is complete, to which it does nothing
		}
}

// end leaves the bar of all.
func (b *bars) end() {
	b.all.SetTotal(-1, true)
	b.p.Wait()
}
