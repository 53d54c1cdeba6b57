// Answers `yes` or `no` for each line `CA LEAF KEY HOST` of a file: would a client with that CA file believe
// a server with that leaf to be that host? Asks Go's crypto/tls.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

func main() {
	file, err := os.Open(os.Args[1])
	check(err)
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		field := strings.Fields(lines.Text())
		if believes(field[0], field[1], field[2], field[3]) {
			fmt.Println("yes")
		} else {
			fmt.Println("no")
		}
	}
	check(lines.Err())
}

func believes(ca, leaf, key, host string) bool {
	pair, err := tls.LoadX509KeyPair(leaf, key)
	check(err)
	pem, err := os.ReadFile(ca)
	check(err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		check(fmt.Errorf("%s holds no certificate", ca))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer listener.Close()
	go func() {
		there, err := listener.Accept()
		check(err)
		tls.Server(there, &tls.Config{Certificates: []tls.Certificate{pair}}).Handshake()
	}()
	here, err := net.Dial("tcp", listener.Addr().String())
	check(err)
	defer here.Close()
	check(here.SetDeadline(time.Now().Add(20 * time.Second)))
	return tls.Client(here, &tls.Config{RootCAs: roots, ServerName: host}).Handshake() == nil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
