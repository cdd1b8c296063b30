package raftnet

import (
	"errors"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/vfs"
)

// entryHead is the size of an entry's head.
const entryHead = 8 + 1 + 8 + 4 + 4

const (
	flagTransfer = 1 // of a vote

	flagSuccess   = 1 // of answers
	flagNoBackoff = 2
)

// appendRequest encodes a request behind b.
func appendRequest(b []byte, m any) ([]byte, error) {
	switch m := m.(type) {
	case *raft.AppendEntriesRequest:
		return appendEntries(b, m)
	case *raft.RequestVoteRequest:
		b = append(b, byte(m.ProtocolVersion))
		b = appendNumbers(b, m.Term, m.LastLogIndex, m.LastLogTerm)
		return append(b, flag(m.LeadershipTransfer, flagTransfer)), nil
	case *raft.RequestPreVoteRequest:
		b = append(b, byte(m.ProtocolVersion))
		return appendNumbers(b, m.Term, m.LastLogIndex, m.LastLogTerm), nil
	case *raft.InstallSnapshotRequest:
		if m.Size < 0 {
			return nil, vfs.Errorf(vfs.KindInternal, "raftnet", "a snapshot of %d bytes", m.Size)
		}
		b = append(b, byte(m.ProtocolVersion))
		b = le.AppendUint32(b, uint32(m.SnapshotVersion))
		b = appendNumbers(b, m.Term, m.LastLogIndex, m.LastLogTerm, m.ConfigurationIndex, uint64(m.Size))
		b = append(le.AppendUint32(b, uint32(len(m.Peers))), m.Peers...)
		return append(le.AppendUint32(b, uint32(len(m.Configuration))), m.Configuration...), nil
	case *raft.TimeoutNowRequest:
		return append(b, byte(m.ProtocolVersion)), nil
	}
	return nil, vfs.Errorf(vfs.KindInternal, "raftnet", "request of type %T", m)
}

func appendEntries(b []byte, m *raft.AppendEntriesRequest) ([]byte, error) {
	b = append(b, byte(m.ProtocolVersion))
	b = appendNumbers(b, m.Term, m.PrevLogEntry, m.PrevLogTerm, m.LeaderCommitIndex)
	b = le.AppendUint32(b, uint32(len(m.Entries)))
	for i, e := range m.Entries {
		if e.Index != m.PrevLogEntry+1+uint64(i) {
			return nil, vfs.Errorf(vfs.KindInternal, "raftnet", "entry %d at place %d behind entry %d", e.Index, i, m.PrevLogEntry)
		}
		var at uint64
		if !e.AppendedAt.IsZero() {
			at = uint64(e.AppendedAt.UnixNano())
		}
		b = append(le.AppendUint64(b, e.Term), byte(e.Type))
		b = le.AppendUint64(b, at)
		b = le.AppendUint32(b, uint32(len(e.Data)))
		b = le.AppendUint32(b, uint32(len(e.Extensions)))
	}
	for _, e := range m.Entries {
		b = append(append(b, e.Data...), e.Extensions...)
	}
	return b, nil
}

func appendNumbers(b []byte, ns ...uint64) []byte {
	for _, n := range ns {
		b = le.AppendUint64(b, n)
	}
	return b
}

func flag(set bool, f byte) byte {
	if set {
		return f
	}
	return 0
}

// single is a request to append one entry, in one piece of memory.
type single struct {
	req  raft.AppendEntriesRequest
	log  raft.Log
	list [1]*raft.Log
}

// readRequest decodes a request of the replica from. It keeps parts of b.
func readRequest(kind byte, b []byte, from []byte) (any, error) {
	p := &parser{b: b}
	h := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(p.u8()), ID: from, Addr: from}
	switch kind {
	case kindAppend:
		return readAppend(p, h)
	case kindVote:
		m := &raft.RequestVoteRequest{RPCHeader: h, Term: p.u64(), LastLogIndex: p.u64(), LastLogTerm: p.u64()}
		m.LeadershipTransfer = p.flags(flagTransfer) != 0
		return m, p.end()
	case kindPreVote:
		return &raft.RequestPreVoteRequest{RPCHeader: h, Term: p.u64(), LastLogIndex: p.u64(), LastLogTerm: p.u64()}, p.end()
	case kindSnapshot:
		m := &raft.InstallSnapshotRequest{
			RPCHeader: h, Leader: from, SnapshotVersion: raft.SnapshotVersion(p.u32()), Term: p.u64(), LastLogIndex: p.u64(), LastLogTerm: p.u64(),
			ConfigurationIndex: p.u64(), Size: int64(p.u64()), Peers: p.text(), Configuration: p.text(),
		}
		p.bad = p.bad || m.Size < 0
		return m, p.end()
	case kindTimeoutNow:
		return &raft.TimeoutNowRequest{RPCHeader: h}, p.end()
	}
	return nil, malformed("kind %d", kind)
}

func readAppend(p *parser, h raft.RPCHeader) (*raft.AppendEntriesRequest, error) {
	s := new(single)
	m := &s.req
	*m = raft.AppendEntriesRequest{
		RPCHeader: h, Term: p.u64(), PrevLogEntry: p.u64(), PrevLogTerm: p.u64(), LeaderCommitIndex: p.u64(),
	}
	n := int(p.u32())
	if n > len(p.b)/entryHead {
		return nil, malformed("%d entries in %d bytes", n, len(p.b))
	}
	heads := parser{b: p.bytes(n * entryHead)}
	var logs []raft.Log
	switch {
	case n == 1:
		m.Entries = s.list[:]
	case n > 1:
		logs, m.Entries = make([]raft.Log, n), make([]*raft.Log, n)
	}
	for i := range m.Entries {
		e := &s.log
		if n > 1 {
			e = &logs[i]
		}
		m.Entries[i] = e
		e.Index, e.Term, e.Type = m.PrevLogEntry+1+uint64(i), heads.u64(), raft.LogType(heads.u8())
		if at := heads.u64(); at != 0 {
			e.AppendedAt = time.Unix(0, int64(at))
		}
		data, ext := int(heads.u32()), int(heads.u32())
		e.Data = p.bytes(data)
		if ext > 0 {
			e.Extensions = p.bytes(ext)
		}
		if e.Type > raft.LogConfiguration {
			return nil, malformed("an entry of type %d", e.Type) // Raft would end the process
		}
	}
	return m, p.end()
}

// appendAnswer encodes the answer to a request behind b.
func appendAnswer(b []byte, r raft.RPCResponse) ([]byte, error) {
	if r.Error != nil {
		text := r.Error.Error()
		return append(append(b, 1), text[:min(len(text), maxAnswer-1)]...), nil
	}
	b = append(b, 0)
	switch m := r.Response.(type) {
	case *raft.AppendEntriesResponse:
		b = appendNumbers(b, m.Term, m.LastLog)
		return append(b, flag(m.Success, flagSuccess)|flag(m.NoRetryBackoff, flagNoBackoff)), nil
	case *raft.RequestVoteResponse:
		return append(le.AppendUint64(b, m.Term), flag(m.Granted, flagSuccess)), nil
	case *raft.RequestPreVoteResponse:
		return append(le.AppendUint64(b, m.Term), flag(m.Granted, flagSuccess)), nil
	case *raft.InstallSnapshotResponse:
		return append(le.AppendUint64(b, m.Term), flag(m.Success, flagSuccess)), nil
	case *raft.TimeoutNowResponse:
		return b, nil
	}
	return nil, vfs.Errorf(vfs.KindInternal, "raftnet", "answer of type %T", r.Response)
}

// remote is an error that the other end answered. The stream is as good as before.
type remote struct{ error }

// readAnswer decodes an answer into m, of the replica from.
func readAnswer(b []byte, from []byte, m any) error {
	p := &parser{b: b}
	switch p.u8() {
	case 0:
	case 1:
		return remote{errors.New(string(p.b))}
	default:
		return malformed("an answer that is neither one nor an error")
	}
	h := raft.RPCHeader{ID: from, Addr: from}
	switch m := m.(type) {
	case *raft.AppendEntriesResponse:
		*m = raft.AppendEntriesResponse{RPCHeader: h, Term: p.u64(), LastLog: p.u64()}
		f := p.flags(flagSuccess | flagNoBackoff)
		m.Success, m.NoRetryBackoff = f&flagSuccess != 0, f&flagNoBackoff != 0
	case *raft.RequestVoteResponse:
		*m = raft.RequestVoteResponse{RPCHeader: h, Term: p.u64(), Granted: p.flags(flagSuccess) != 0}
	case *raft.RequestPreVoteResponse:
		*m = raft.RequestPreVoteResponse{RPCHeader: h, Term: p.u64(), Granted: p.flags(flagSuccess) != 0}
	case *raft.InstallSnapshotResponse:
		*m = raft.InstallSnapshotResponse{RPCHeader: h, Term: p.u64(), Success: p.flags(flagSuccess) != 0}
	case *raft.TimeoutNowResponse:
		*m = raft.TimeoutNowResponse{RPCHeader: h}
	default:
		return vfs.Errorf(vfs.KindInternal, "raftnet", "answer of type %T", m)
	}
	return p.end()
}
