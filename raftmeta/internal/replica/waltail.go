package replica

import (
	"time"

	"github.com/hashicorp/raft-wal/types"
	"github.com/rackfs/rackfs/internal/vfile"
)

// copyBytes is how many bytes of entries are written at a time when a tail is copied.
const copyBytes = 1 << 20

// tailStore is raft-wal's list of segments and its files, of which the last one can be appended to.
//
// raft-wal ends a segment with its last batch of entries, and enters that into its list afterwards, in the
// background. When the process ends in between, also in good order, or the power fails while the batch
// is written, it finds a last segment that has its end, whole or torn, and refuses all appends for ever. So the entries of
// such a segment are copied to a new one before raft-wal sees the list. The old file is then in no list, and removed.
type tailStore struct {
	types.MetaStore
	types.SegmentFiler

	segmentBytes int
	recovered    types.SegmentWriter // the last segment, read by Load and not asked for yet
}

// Load implements types.MetaStore.
func (t *tailStore) Load(dir string) (types.PersistentState, error) {
	s, err := t.MetaStore.Load(dir)
	if err != nil || len(s.Segments) == 0 {
		return s, err
	}
	last := s.Segments[len(s.Segments)-1]
	if !last.SealTime.IsZero() {
		return s, nil
	}
	w, err := t.SegmentFiler.RecoverTail(last)
	if vfile.IsNotExist(err) {
		return s, nil // raft-wal makes it
	}
	if err != nil {
		return s, err
	}
	ended, _, err := w.Sealed()
	if err != nil || !ended {
		t.recovered = w
		return s, err
	}
	defer w.Close()
	segments, next, err := t.copyTail(last, w, s.NextSegmentID)
	if err != nil {
		return s, err
	}
	s.Segments, s.NextSegmentID = append(s.Segments[:len(s.Segments)-1], segments...), next
	return s, t.MetaStore.CommitState(s)
}

// RecoverTail implements types.SegmentFiler.
func (t *tailStore) RecoverTail(info types.SegmentInfo) (types.SegmentWriter, error) {
	if w := t.recovered; w != nil {
		t.recovered = nil
		return w, nil
	}
	return t.SegmentFiler.RecoverTail(info)
}

// copyTail writes the entries of the segment old to new segments, durably, of which
// the last one has no end. next is the first free id.
func (t *tailStore) copyTail(old types.SegmentInfo, from types.SegmentReader, next uint64) ([]types.SegmentInfo, uint64, error) {
	var list []types.SegmentInfo
	begin := func(base uint64) {
		list = append(list, types.SegmentInfo{
			ID: next, BaseIndex: base, MinIndex: base, SizeLimit: uint32(t.segmentBytes), Codec: old.Codec, CreateTime: time.Now(),
		})
		next++
	}
	index, last := old.MinIndex, from.(types.SegmentWriter).LastIndex()
	begin(index)
	for index <= last {
		info := &list[len(list)-1]
		// An attempt that did not come to its end may have left the file.
		if err := t.SegmentFiler.Delete(info.BaseIndex, info.ID); err != nil && !vfile.IsNotExist(err) {
			return nil, 0, err
		}
		w, err := t.SegmentFiler.Create(*info)
		if err != nil {
			return nil, 0, err
		}
		index, err = copySegment(w, info, from, index, last)
		if err != nil {
			w.Close()
			return nil, 0, err
		}
		if err := w.Close(); err != nil {
			return nil, 0, err
		}
		if !info.SealTime.IsZero() {
			begin(index)
		}
	}
	return list, next, nil
}

// copySegment appends the entries from index to last until w has its end, and returns the first that it left.
func copySegment(w types.SegmentWriter, info *types.SegmentInfo, from types.SegmentReader, index, last uint64) (uint64, error) {
	for index <= last {
		var batch []types.LogEntry
		for size := 0; index <= last && size < copyBytes; index++ {
			e, err := from.GetLog(index)
			if err != nil {
				return 0, err
			}
			batch = append(batch, types.LogEntry{Index: index, Data: append([]byte(nil), e.Bs...)})
			size += len(e.Bs)
			if err := e.Close(); err != nil {
				return 0, err
			}
		}
		if err := w.Append(batch); err != nil {
			return 0, err
		}
		ended, start, err := w.Sealed()
		if err != nil {
			return 0, err
		}
		if ended {
			info.SealTime, info.MaxIndex, info.IndexStart = time.Now(), index-1, start
			break
		}
	}
	return index, nil
}
