package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keyledger/kms/hsm"
)

// siteFlags say where a site's parts are. Every flag has a twin in the environment.
type siteFlags struct {
	Data          string `help:"This node's own folder." default:"./data" env:"KMS_DATA" type:"path"`
	Location      string `help:"Location that this node serves; part of every key's name." default:"local" env:"KMS_LOCATION"`
	NATS          string `name:"nats" help:"URLs of a NATS cluster with JetStream, separated by commas. Empty: a server inside this process." env:"KMS_NATS" placeholder:"URL"`
	NATSReplicas  int    `name:"nats-replicas" help:"Copies that init makes of each stream: 1, 3 or 5." default:"0" env:"KMS_NATS_REPLICAS" placeholder:"N"`
	ClickHouse    string `name:"clickhouse" help:"URL of a ClickHouse server (http or https), with user and database. Empty: the embedded engine in a child process." env:"KMS_CLICKHOUSE" placeholder:"URL"`
	PKCS11Module  string `name:"pkcs11-module" help:"Path of the token's PKCS#11 library. Empty: SoftHSM." env:"KMS_PKCS11_MODULE" placeholder:"FILE"`
	PKCS11Token   string `name:"pkcs11-token" help:"Label of the token. Empty: a SoftHSM token in the data folder." env:"KMS_PKCS11_TOKEN" placeholder:"LABEL"`
	PKCS11PINFile string `name:"pkcs11-pin-file" help:"File with the user's PIN." env:"KMS_PKCS11_PIN_FILE" placeholder:"FILE"`
	LogLevel      string `help:"Least severe messages to log: debug, info, warn or error." default:"info" enum:"debug,info,warn,error" env:"KMS_LOG_LEVEL"`
}

// listenFlags say how callers reach this node.
type listenFlags struct {
	Listen           string `help:"Address to listen on; port 0 takes a free one." default:"127.0.0.1:8600" env:"KMS_LISTEN"`
	TLSCert          string `name:"tls-cert" help:"PEM file with the certificate chain." env:"KMS_TLS_CERT" placeholder:"FILE"`
	TLSKey           string `name:"tls-key" help:"PEM file with its private key." env:"KMS_TLS_KEY" placeholder:"FILE"`
	DebugListen      string `help:"Loopback address for Go's profiles (/debug/pprof). Empty: none." env:"KMS_DEBUG_LISTEN" placeholder:"ADDRESS"`
	AllowClearImport bool   `help:"Take key material in the clear, over TLS or from this machine; a permission of its own is needed too." env:"KMS_ALLOW_CLEAR_IMPORT"`
	InsecureListen   bool   `help:"Allow listening beyond this machine without TLS, e.g. behind a proxy that does it." env:"KMS_INSECURE_LISTEN"`
}

// Validate refuses to put credentials and plaintexts on a network in the clear by mistake.
func (f listenFlags) Validate() error {
	if (f.TLSCert == "") != (f.TLSKey == "") {
		return errors.New("--tls-cert and --tls-key must be given together")
	}
	host, _, err := net.SplitHostPort(f.Listen)
	if err != nil {
		return fmt.Errorf("--listen must be host:port: %w", err)
	}
	if f.TLSCert == "" && !f.InsecureListen && !loopback(host) {
		return fmt.Errorf("--listen %s is reached from other machines, which needs --tls-cert and --tls-key, or --insecure-listen if a proxy in front does TLS", f.Listen)
	}
	if f.DebugListen != "" {
		if host, _, err := net.SplitHostPort(f.DebugListen); err != nil || !loopback(host) {
			return errors.New("--debug-listen must be host:port on the loopback interface: profiles show what a server does")
		}
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Validate refuses what would be found out late.
func (f siteFlags) Validate() error {
	if (f.PKCS11Token == "") != (f.PKCS11PINFile == "") {
		return errors.New("--pkcs11-token and --pkcs11-pin-file must be given together, or neither for a SoftHSM token in the data folder")
	}
	if f.ClickHouse != "" {
		if u, err := url.Parse(f.ClickHouse); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("--clickhouse must be a URL like http://user@host:8123/kms")
		}
	}
	return nil
}

func (f siteFlags) path(name ...string) string {
	return filepath.Join(append([]string{f.Data}, name...)...)
}

// lockData makes the data folder and takes the lock that keeps a second process out of it. The lock goes with the
// process, however that ends.
func (f siteFlags) lockData() (*os.File, error) {
	if err := os.MkdirAll(f.Data, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	lock, err := os.OpenFile(f.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the data folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("data folder %s is in use by another kms process; stop that one, or give this one its own folder with --data", f.Data), lock.Close())
	}
	return lock, nil
}

// pin reads the token's PIN.
func (f siteFlags) pin() (hsm.Secret, error) {
	b, err := os.ReadFile(f.PKCS11PINFile)
	if err != nil {
		return hsm.Secret{}, fmt.Errorf("reading the token's PIN: %w", err)
	}
	return hsm.NewSecret(strings.TrimRight(string(b), "\r\n")), nil
}

const adminKeyFile = "admin.key"

// adminKey reads the instance admin's access key, or makes it at the first start. made says which.
func (f siteFlags) adminKey() (key string, made bool, err error) {
	path := f.path(adminKeyFile)
	b, err := os.ReadFile(path)
	if err == nil {
		key = strings.TrimSpace(string(b))
		if len(key) < 32 {
			return "", false, fmt.Errorf("%s holds no access key; remove the file to have a new one made", path)
		}
		return key, false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("reading the admin access key: %w", err)
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return "", false, fmt.Errorf("making the admin access key: %w", err)
	}
	key = "admin." + base64.RawURLEncoding.EncodeToString(secret)
	if err := writeSecret(path, key+"\n"); err != nil {
		return "", false, fmt.Errorf("writing the admin access key: %w", err)
	}
	return key, true, nil
}

// writeSecret makes a file for the owner's eyes, whole or not at all.
func writeSecret(path, content string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new*") // 0600
	if err != nil {
		return err
	}
	_, err = tmp.WriteString(content)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
