package hsm

import (
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keyledger/kms/domain"
)

// algorithm says how keys of one domain.Algorithm are made and used. A further algorithm is a further row.
type algorithm struct {
	name domain.Algorithm
	// kind names the row in stored blobs; never reuse one.
	kind byte
	// generator and fresh make a key whose only uses are to be wrapped and to give its fingerprint. It is the only
	// extractable object there is, and lives for the fraction of a millisecond that Generate takes.
	generator []*pkcs11.Mechanism
	fresh     []*pkcs11.Attribute
	// inUse is what an unwrapped key is: a session object that can do the algorithm and nothing else. It is a public
	// object, i.e. one that sessions of this process could use without a login (PKCS#11 v2.40 section 2.6), of which there
	// are none; its value stays secret all the same. SoftHSM keeps the value of a private one encrypted in memory, and
	// decrypts it for each use under one lock: that costs 15 % of all encryptions, and the key to it is in the same memory.
	inUse []*pkcs11.Attribute
}

// fingerprintText is what the check value of a secret key is the CMAC of.
const fingerprintText = "keyledger fingerprint v1"

var aes256GCM = &algorithm{
	name:      domain.AES256GCM,
	kind:      1,
	generator: mechanism(pkcs11.CKM_AES_KEY_GEN),
	fresh: []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		attr(pkcs11.CKA_VALUE_LEN, 32), attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_PRIVATE, false),
		attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, true),
		attr(pkcs11.CKA_ENCRYPT, false), attr(pkcs11.CKA_DECRYPT, false),
		attr(pkcs11.CKA_SIGN, true), attr(pkcs11.CKA_VERIFY, false),
		attr(pkcs11.CKA_ALLOWED_MECHANISMS, mechanisms(pkcs11.CKM_AES_CMAC)),
	},
	inUse: []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_PRIVATE, false),
		attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, false),
		attr(pkcs11.CKA_ENCRYPT, true), attr(pkcs11.CKA_DECRYPT, true),
		attr(pkcs11.CKA_SIGN, false), attr(pkcs11.CKA_VERIFY, false),
		attr(pkcs11.CKA_ALLOWED_MECHANISMS, mechanisms(pkcs11.CKM_AES_GCM)),
		attr(pkcs11.CKA_MODIFIABLE, false), // last: SoftHSM takes the attributes one by one
	},
}

var algorithms = []*algorithm{aes256GCM}

// algorithmOf is the row for keys bound to b.
func algorithmOf(b domain.Binding) (*algorithm, error) {
	if b.Protection != domain.HSM {
		return nil, fmt.Errorf("%w: protection level %q", ErrUnsupported, b.Protection)
	}
	for _, a := range algorithms {
		if a.name == b.Algorithm {
			return a, nil
		}
	}
	return nil, fmt.Errorf("%w: algorithm %q", ErrUnsupported, b.Algorithm)
}
