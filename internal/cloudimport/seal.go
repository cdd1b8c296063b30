package cloudimport

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// KeyLabel is what the key of sealed secrets is derived for (pki.CA.Derive).
const KeyLabel = "rackfs sealed secrets of imports 1"

// sealFormat is the first byte of what is sealed.
const sealFormat = 1

// bound is what of a job its secrets belong to: sealed ones that are put into another job's record, to have them sent elsewhere, do not open.
func bound(j *metapb.Job) (b []byte) {
	for _, part := range [][]byte{[]byte(j.Kind), binary.BigEndian.AppendUint32(nil, j.Fs), j.Path, []byte(j.Token), j.Spec} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return b
}

func aead(key []byte) (cipher.AEAD, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(c)
}

// Seal encrypts secrets for the record of a job.
func Seal(key []byte, j *metapb.Job, s Secrets) ([]byte, error) {
	gcm, err := aead(key)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInternal, "import", "the key of secrets: %w", err)
	}
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 1+gcm.NonceSize(), 1+gcm.NonceSize()+len(plain)+gcm.Overhead())
	out[0] = sealFormat
	rand.Read(out[1:])
	return gcm.Seal(out, out[1:], plain, bound(j)), nil
}

// Unseal is the reverse.
func Unseal(key []byte, j *metapb.Job) (s Secrets, err error) {
	const op = "import"
	gcm, err := aead(key)
	if err != nil {
		return s, vfs.Errorf(vfs.KindInternal, op, "the key of secrets: %w", err)
	}
	b := j.Sealed
	if len(b) < 1+gcm.NonceSize() {
		return s, vfs.Errorf(vfs.KindCorrupt, op, "the job has no keys in its record: start it again")
	}
	if b[0] != sealFormat {
		return s, vfs.Errorf(vfs.KindIncompatible, op, "the job's keys are sealed in format %d, which a newer release made: start the job again", b[0])
	}
	plain, err := gcm.Open(nil, b[1:1+gcm.NonceSize()], b[1+gcm.NonceSize():], bound(j))
	if err != nil {
		return s, vfs.Errorf(vfs.KindCorrupt, op, "the job's keys cannot be unsealed by this cluster: start it again")
	}
	if err := json.Unmarshal(plain, &s); err != nil {
		return Secrets{}, vfs.Errorf(vfs.KindCorrupt, op, "the job's keys are malformed: start it again")
	}
	return s, nil
}
