package fsm

import (
	"encoding/binary"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// answerQuotas bounds the projects of one answer.
const answerQuotas = 1000

func (r *reader) usage(k usageKey) (usage, error) {
	b, _, err := r.view.Get(k.append(nil))
	if err != nil {
		return usage{}, err
	}
	return decodeUsage(b)
}

func quotaOf(project uint32, u *usage) *metapb.Quota {
	return &metapb.Quota{
		Project: project, Dir: u.dir, UsedBytes: u.bytes, UsedInodes: u.inodes, ReservedBytes: u.reserved,
		LimitBytes: u.limitBytes, LimitInodes: u.limitInodes,
	}
}

func (r *reader) statFS(q *metapb.StatFSQ) (*metapb.QueryResult, error) {
	u, err := r.usage(usageKey{fs: r.fs})
	if err != nil {
		return nil, err
	}
	res := &metapb.StatFSR{
		UsedBytes: u.bytes, UsedInodes: u.inodes, QuotaBytes: u.limitBytes, QuotaInodes: u.limitInodes, ReservedBytes: u.reserved,
	}
	if q.GetIno() != 0 {
		n, err := r.must(q.Ino, "statfs")
		if err != nil {
			return nil, err
		}
		if p := n.attr.Project; p != 0 {
			u, err := r.usage(usageKey{r.fs, p})
			if err != nil {
				return nil, err
			}
			res.Project = quotaOf(p, &u)
		}
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Statfs{Statfs: res}}, nil
}

func (r *reader) quotas(q *metapb.QuotasQ) (*metapb.QueryResult, error) {
	bound := limitOf(q.Limit, answerQuotas, answerQuotas)
	res := new(metapb.QuotasR)
	lo := usageKey{r.fs, q.From}.append(nil)
	var inner error
	err := r.view.Scan(lo, prefixEnd(appendFS(nil, "u/", r.fs)), func(k, v []byte) bool {
		if len(res.Quotas) == bound {
			res.More = true
			return false
		}
		u, err := decodeUsage(v)
		if err != nil {
			inner = err
			return false
		}
		project := uint32(0)
		if len(k) > len("u/")+4 {
			project = binary.BigEndian.Uint32(k[len("u/")+4:])
		}
		if project == 0 || u.exists() || u.reserved != 0 || u.limitBytes != 0 || u.limitInodes != 0 {
			res.Quotas = append(res.Quotas, quotaOf(project, &u))
		}
		return true
	})
	if inner != nil {
		err = vfs.Wrap("quotas", inner)
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Quotas{Quotas: res}}, err
}
