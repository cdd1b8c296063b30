package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

const (
	certBlock = "CERTIFICATE"
	keyBlock  = "PRIVATE KEY"

	maxFileBytes = 64 << 10
)

func writeCert(files vfile.FS, dir, name string, cert *x509.Certificate) error {
	return vfile.WriteFileModeAtomic(files, dir, name, pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: cert.Raw}), 0o644)
}

func writeKey(files vfile.FS, dir, name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return vfile.WriteFileAtomic(files, dir, name, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
}

func removeSync(files vfile.FS, dir, name string) error {
	if err := files.Remove(filepath.Join(dir, name)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return files.SyncDir(dir)
}

// readPEM reads the one block of a small file.
func readPEM(files vfile.FS, path, block string, secret bool) ([]byte, error) {
	if secret {
		st, err := files.Stat(path)
		if err != nil {
			return nil, err
		}
		if st.Mode().Perm()&0o077 != 0 {
			return nil, vfs.Errorf(vfs.KindAccess, "", "%s can be read by others (mode %#o): set it to 0600, and replace the key if it may have been copied", path, st.Mode().Perm())
		}
	}
	data, err := vfile.ReadFile(files, path, maxFileBytes+1)
	if err != nil {
		return nil, err
	}
	b, rest := pem.Decode(data)
	if len(data) > maxFileBytes || b == nil || b.Type != block || len(rest) != 0 {
		return nil, vfs.Errorf(vfs.KindCorrupt, "", "%s does not hold exactly one PEM block of type %s", path, block)
	}
	return b.Bytes, nil
}

func loadCert(files vfile.FS, path string) (*x509.Certificate, error) {
	der, err := readPEM(files, path, certBlock, false)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, "", "%s: %w", path, err)
	}
	return cert, nil
}

func loadPair(files vfile.FS, certPath, keyPath string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	cert, err := loadCert(files, certPath)
	if err != nil {
		return nil, nil, err
	}
	key, err := loadKey(files, keyPath)
	if err != nil {
		return nil, nil, err
	}
	if pub, isECDSA := cert.PublicKey.(*ecdsa.PublicKey); !isECDSA || !pub.Equal(key.Public()) {
		return nil, nil, vfs.Errorf(vfs.KindInvalid, "", "%s is not the key of %s", keyPath, certPath)
	}
	return cert, key, nil
}

func loadKey(files vfile.FS, path string) (*ecdsa.PrivateKey, error) {
	der, err := readPEM(files, path, keyBlock, true)
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, "", "%s: %w", path, err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, vfs.Errorf(vfs.KindInvalid, "", "%s is not an ECDSA key", path)
	}
	return key, nil
}
