package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rackfs/rackfs/vfs"
)

const (
	certBlock = "CERTIFICATE"
	keyBlock  = "PRIVATE KEY"

	maxFileBytes = 64 << 10
)

func writeCert(path string, cert *x509.Certificate) error {
	return writeFile(path, 0o644, pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: cert.Raw}))
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writeFile(path, 0o600, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
}

// writeFile replaces path durably: after a crash it has the old or the new content.
func writeFile(path string, mode fs.FileMode, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func removeSync(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// readPEM reads the one block of a small file.
func readPEM(path, block string, secret bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if secret {
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if st.Mode().Perm()&0o077 != 0 {
			return nil, vfs.Errorf(vfs.KindAccess, "", "%s can be read by others (mode %#o): set it to 0600, and replace the key if it may have been copied", path, st.Mode().Perm())
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	b, rest := pem.Decode(data)
	if len(data) > maxFileBytes || b == nil || b.Type != block || len(rest) != 0 {
		return nil, vfs.Errorf(vfs.KindCorrupt, "", "%s does not hold exactly one PEM block of type %s", path, block)
	}
	return b.Bytes, nil
}

func loadCert(path string) (*x509.Certificate, error) {
	der, err := readPEM(path, certBlock, false)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, "", "%s: %w", path, err)
	}
	return cert, nil
}

func loadPair(certPath, keyPath string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	cert, err := loadCert(certPath)
	if err != nil {
		return nil, nil, err
	}
	der, err := readPEM(keyPath, keyBlock, true)
	if err != nil {
		return nil, nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, nil, vfs.Errorf(vfs.KindCorrupt, "", "%s: %w", keyPath, err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if pub, isECDSA := cert.PublicKey.(*ecdsa.PublicKey); !ok || !isECDSA || !pub.Equal(key.Public()) {
		return nil, nil, vfs.Errorf(vfs.KindInvalid, "", "%s is not the key of %s", keyPath, certPath)
	}
	return cert, key, nil
}
