#!/usr/bin/env bash
# Makes an authority and the leaves `server` and `client` (ECDSA P-256, with SPIFFE IDs) in the folder $1, for all proxies
# but SageMesh, whose nodes make their own.
set -euo pipefail
cd "$1"
key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1.key"; }
key ca
openssl req -x509 -new -key ca.key -subj "/CN=bench ca" -days 365 -out ca.pem \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -addext "subjectAltName=URI:spiffe://mesh"
for name in server client; do
    key "$name"
    openssl req -new -key "$name.key" -subj "/O=mesh" -out "$name.csr"
    printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
        "extendedKeyUsage=serverAuth,clientAuth" \
        "subjectAltName=URI:spiffe://mesh/ns/default/sa/$name,DNS:$name.mesh" >"$name.ext"
    openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 300 -out "$name.pem" \
        -extfile "$name.ext" 2>/dev/null
    cat "$name.pem" "$name.key" >"$name-both.pem"
done
