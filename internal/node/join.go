package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// joinTimeout bounds one attempt at one address.
const joinTimeout = 30 * time.Second

// Join makes the node of a configuration one of the cluster that the token is for. Interrupted, it is done again with the same token.
func Join(ctx context.Context, c *Config, tokenText, release string) error {
	return join(ctx, c, tokenText, release, time.Now)
}

func join(ctx context.Context, c *Config, tokenText, release string, now func() time.Time) error {
	const op = "join"
	t, err := parseToken(tokenText)
	if err != nil {
		return err
	}
	d, err := openDataDir(vfile.OS{}, c)
	if err != nil {
		return err
	}
	defer d.close()
	if d.state.Ready {
		return vfs.Errorf(vfs.KindExists, op, "%s is that of a node of cluster %s already: start it with `rackfs node --config FILE`", c.Data, d.state.Settings.Cluster)
	}
	// Id and key are durable before the token is used: with others the answer could not be asked for again.
	if err := d.save(); err != nil {
		return err
	}
	req, err := pki.LoadRequest(d.files, d.sub(pkiDir), c.Name)
	if vfs.KindOf(err) == vfs.KindNotFound {
		if req, err = pki.NewRequest(c.Name); err == nil {
			err = req.Save(d.files, d.sub(pkiDir))
		}
	}
	if err != nil {
		return err
	}
	record := c.record(d.state.id(), release)
	var errs []error
	for _, addr := range t.control {
		ca, reply, err := askToJoin(ctx, t, addr, &joinRequest{Secret: t.secret, CSR: req.DER, Time: now(), Node: record}, now)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
			if vfs.KindOf(err) != vfs.KindUnavailable {
				break // it was answered, and the others answer the same
			}
			continue
		}
		return d.joined(c, req, ca, reply)
	}
	return vfs.Errorf(vfs.KindOf(errs[len(errs)-1]), op, "%w", errors.Join(errs...))
}

func askToJoin(ctx context.Context, t *token, addr string, req *joinRequest, now func() time.Time) (ca []byte, reply *joinReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	tr := &http.Transport{TLSClientConfig: pki.PinnedTLS(t.fingerprint, RoleMeta, now, func(c []byte) { ca = c })}
	defer tr.CloseIdleConnections()
	reply = new(joinReply)
	if err := exchange(ctx, &http.Client{Transport: tr}, http.MethodPost, "https://"+addr+pathJoin, req, reply); err != nil {
		return nil, nil, err
	}
	return ca, reply, nil
}

// joined makes the directory that of a node of the cluster.
func (d *dataDir) joined(c *Config, req *pki.Request, ca []byte, reply *joinReply) error {
	const op = "join"
	if err := reply.Settings.check(); err != nil {
		return vfs.Errorf(vfs.KindInvalid, op, "the answer: %w", err)
	}
	id, err := req.Identity(ca, reply.Cert)
	if err != nil {
		return err
	}
	if err := id.Save(d.files, d.sub(pkiDir)); err != nil {
		return err
	}
	if c.Has(RoleMeta) {
		if err := pki.SaveCAKey(d.files, d.sub(pkiDir), reply.CAKey); err != nil {
			return err
		}
	}
	if err := d.saveJSON(nodesFile, reply.Peers); err != nil {
		return err
	}
	if len(reply.Removed) > 0 {
		if err := d.saveJSON(removedFile, reply.Removed); err != nil {
			return err
		}
	}
	d.state.Settings, d.state.Ready = reply.Settings, true
	return d.save()
}

// record is the node's record in shard 0, without its version.
func (c *Config) record(id []byte, release string) *metapb.Node {
	return &metapb.Node{
		Name: c.Name, Id: id, Roles: c.Roles, Zone: c.Zone, Rack: c.Rack, Group: c.Group,
		Control: c.advertised(RoleMeta, c.ControlListen), Meta: c.advertised(RoleMeta, c.MetaListen),
		Block: c.advertised(RoleBlock, c.BlockListen), Nfs: c.advertised(RoleGateway, c.NFSListen), Local: c.advertised(RoleLocal, c.LocalListen), Release: release,
		Several: c.Several && c.Has(RoleGateway),
	}
}

func (c *Config) peer(id []byte) peer {
	p := peerOf(c.record(id, ""))
	p.ID = hex.EncodeToString(id)
	return p
}

// renewer keeps the certificate of a running node valid.
type renewer struct {
	dir   *dataDir
	id    *pki.Holder
	peers *directory
	now   func() time.Time
}

const (
	renewInterval = time.Hour // between looks
	// renewTimeout bounds a renewal at one meta node.
	renewTimeout = 30 * time.Second
)

// due reports whether two thirds of the certificate's time are over.
func (r *renewer) due() bool {
	id := r.id.Identity()
	return r.now().After(id.Issued().Add(id.NotAfter().Sub(id.Issued()) * 2 / 3))
}

// renew gets a new certificate for the node's key.
func (r *renewer) renew(ctx context.Context) error {
	const op = "renew certificate"
	id := r.id.Identity()
	req, err := id.Renewal()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range r.peers.controls() {
		reply := new(renewReply)
		if err := r.call(ctx, p, http.MethodPost, pathRenew, &renewRequest{CSR: req.DER}, reply); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
			continue
		}
		fresh, err := req.Identity(id.CACert(), reply.Cert)
		if err != nil {
			return err
		}
		if err := fresh.SaveCert(r.dir.files, r.dir.sub(pkiDir)); err != nil {
			return err
		}
		r.id.Set(fresh)
		return nil
	}
	return vfs.Errorf(vfs.KindUnavailable, op, "no meta node renews the certificate, which is valid until %s: %w", id.NotAfter().Format(time.RFC3339), errors.Join(errs...))
}

// call makes one call at a node's control port, with this node's certificate.
func (r *renewer) call(ctx context.Context, p peer, method, path string, req, reply any) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	tr := &http.Transport{TLSClientConfig: r.id.ClientTLS(p.Name)}
	defer tr.CloseIdleConnections()
	return exchange(ctx, &http.Client{Transport: tr}, method, "https://"+p.Control+path, req, reply)
}

// clockSlack is how far a clock may be behind before that is said to be the reason why no certificate is valid.
const clockSlack = 24 * time.Hour

// validity refuses a certificate that cannot be renewed any more, and a clock by which it, and those of the others, are of the future.
func validity(id *pki.Identity, now time.Time) error {
	const op = "certificate"
	switch {
	case now.Add(clockSlack).Before(id.Issued()):
		return vfs.Errorf(vfs.KindUnauthorized, op, "this node's certificate was issued at %s, and the clock here says %s: set the clock (NTP), and start again",
			id.Issued().Format(time.RFC3339), now.Format(time.RFC3339))
	case !now.Before(id.NotAfter()):
		return vfs.Errorf(vfs.KindUnauthorized, op, "this node's certificate expired at %s, and the clock here says %s: if the clock is right, the node has to join anew",
			id.NotAfter().Format(time.RFC3339), now.Format(time.RFC3339))
	}
	return nil
}

// keepCertificate renews the certificate in time.
func (n *Node) keepCertificate(ctx context.Context) {
	tick := time.NewTicker(renewInterval)
	defer tick.Stop()
	for {
		if n.renewer.due() {
			if err := n.renewer.renew(ctx); err != nil {
				n.log.Error("the node's certificate is not renewed; it is tried again", "err", err)
			} else {
				n.log.Info("the node's certificate was renewed", "until", n.id.Identity().NotAfter())
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
