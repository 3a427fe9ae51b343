package domain

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Import is the purpose that the private keys of import jobs are bound to. No key has it.
const Import Purpose = "IMPORT"

// ImportJobLifetime is how long an import job can be used.
const ImportJobLifetime = 3 * 24 * time.Hour

// MaxImports is how much material one job imports.
const MaxImports = 1000

// ImportMethod is how material is wrapped for an import job.
type ImportMethod string

// The methods: the size of the job's RSA key, with which by RSA-OAEP (SHA-256) an AES-256 key is wrapped that wraps the
// material by RFC 5649, or the material itself.
const (
	RSAOAEP3072SHA256AES256 ImportMethod = "RSA_OAEP_3072_SHA256_AES_256"
	RSAOAEP4096SHA256AES256 ImportMethod = "RSA_OAEP_4096_SHA256_AES_256"
	RSAOAEP3072SHA256       ImportMethod = "RSA_OAEP_3072_SHA256"
	RSAOAEP4096SHA256       ImportMethod = "RSA_OAEP_4096_SHA256"
)

// WrapsAES reports whether material is wrapped under an AES key, so that it never is outside the token in the clear.
func (m ImportMethod) WrapsAES() bool { return strings.HasSuffix(string(m), "_AES_256") }

// Origin is that of material which is imported by the method.
func (m ImportMethod) Origin() Origin {
	if m.WrapsAES() {
		return Imported
	}
	return ImportedClear
}

// ImportJobName is the resource name of an import job: projects/{project}/locations/{location}/keyRings/{ring}/importJobs/{id}.
type ImportJobName struct {
	Project, Location, Ring, ID string
}

// ImportJob is the name of the import job with this id in the ring.
func (n RingName) ImportJob(id string) ImportJobName {
	return ImportJobName{n.Project, n.Location, n.Ring, id}
}

// RingName is the name of the ring that the job is in.
func (n ImportJobName) RingName() RingName { return RingName{n.Project, n.Location, n.Ring} }

func (n ImportJobName) String() string { return n.RingName().String() + "/importJobs/" + n.ID }

// ParseImportJobName reads the name of an import job. The error has ReasonBadName.
func ParseImportJobName(s string) (ImportJobName, error) {
	ring, rest, err := parseRing(s)
	id, ok := strings.CutPrefix(rest, "/importJobs/")
	if err != nil || !ok || !ValidID(id) || ring.Ring == AnyRing {
		return ImportJobName{}, badName(s, "projects/{project}/locations/{location}/keyRings/{ring}/importJobs/{job}")
	}
	return ring.ImportJob(id), nil
}

// ImportJobState says whether an import job can be used.
type ImportJobState string

// The states of an import job.
const (
	ImportJobStateAbsent   ImportJobState = "" // no event recorded yet
	ImportJobStateActive   ImportJobState = "ACTIVE"
	ImportJobStateExpired  ImportJobState = "EXPIRED"
	ImportJobStateCanceled ImportJobState = "CANCELED"
)

// ImportJob is one import job's state, folded from its events: a key pair in the token that material is wrapped to. Like
// Key it is a value.
type ImportJob struct {
	Name       ImportJobName
	UID        UID
	State      ImportJobState
	Method     ImportMethod
	Protection ProtectionLevel
	MaterialID UID
	PublicKey  []byte // DER SubjectPublicKeyInfo
	Creator    string // principal
	// Uses are what was, or is being, imported; never changed in place.
	Uses []ImportUse
	// Erased: the private key is known to be gone.
	Erased bool

	CreateTime time.Time
	StateTime  time.Time // of the last change of State
	ExpireTime time.Time
}

// ImportUse is one wrapped key that was sent to be imported. It is for that one import for ever.
type ImportUse struct {
	Digest  [32]byte // SHA-256 of the wrapped key
	KeyUID  UID
	Version Version // as it was asked for: zero for a new one
	// Done: the material is the key's.
	Done bool
}

// Binding is what the job's private key is bound to.
func (j ImportJob) Binding() Binding {
	return Binding{
		Project: j.Name.Project, KeyUID: j.UID, Version: 1, MaterialID: j.MaterialID, Algorithm: Algorithm(j.Method),
		Purpose: Import, Protection: j.Protection, Origin: Generated,
	}
}

// StateAt is the job's state at the given time: it is EXPIRED from its expire time on, whether or not that has been
// recorded yet.
func (j ImportJob) StateAt(at time.Time) ImportJobState {
	if j.State == ImportJobStateActive && !at.Before(j.ExpireTime) {
		return ImportJobStateExpired
	}
	return j.State
}

// Due reports whether the service has something to do about the job: to record that it expired, or to erase its key.
func (j ImportJob) Due(at time.Time) bool {
	return j.State != ImportJobStateAbsent && !j.Erased && j.StateAt(at) != ImportJobStateActive
}

// Usable refuses, with an *Error, the use of a job that there is not, or that is over.
func (j ImportJob) Usable(name ImportJobName, at time.Time) error {
	switch j.StateAt(at) {
	case ImportJobStateActive:
		return nil
	case ImportJobStateExpired:
		return refuse(ReasonImportJobExpired, "import job %s is EXPIRED since %s; create another, and wrap the material for that", name, clock(j.ExpireTime))
	case ImportJobStateCanceled:
		return refuse(ReasonImportJobCanceled, "import job %s is CANCELED; create another, and wrap the material for that", name)
	case ImportJobStateAbsent:
	}
	return ImportJobNotFound(name)
}

// ImportJobNotFound is the refusal of a job that was never made.
func ImportJobNotFound(name ImportJobName) error {
	return refuse(ReasonImportJobNotFound, "there is no import job %s; create it, or look at the name for a mistake", name)
}

// ImportJobCommand asks for a change to an import job. Names are imperative.
//
//sumtype:decl
type ImportJobCommand interface{ isImportJobCommand() }

type (
	// CreateImportJob makes a job.
	CreateImportJob struct {
		Name       ImportJobName
		UID        UID
		Method     ImportMethod
		Protection ProtectionLevel
		Creator    string
		MaterialID UID
	}
	// UseImportJob notes that a wrapped key is about to be imported into a key, before it is: so no other key gets it. A
	// repeat for the same target is let through until the import is known to be done.
	UseImportJob struct {
		Name    ImportJobName
		Digest  [32]byte
		KeyUID  UID
		Version Version
	}
	// CompleteImport notes that the import is done. The service itself asks for it.
	CompleteImport struct{ Digest [32]byte }
	// CancelImport ends a job.
	CancelImport struct{ Name ImportJobName }
	// ExpireImportJob records that an active job's expire time has come, and does nothing otherwise. The service itself
	// asks for it.
	ExpireImportJob struct{}
	// RecordJobErasure notes that the private key of a job that is over is gone.
	RecordJobErasure struct{}
)

func (CreateImportJob) isImportJobCommand()  {}
func (UseImportJob) isImportJobCommand()     {}
func (CompleteImport) isImportJobCommand()   {}
func (CancelImport) isImportJobCommand()     {}
func (ExpireImportJob) isImportJobCommand()  {}
func (RecordJobErasure) isImportJobCommand() {}

// ImportJobEvent is something that happened to an import job; see Event.
//
//sumtype:decl
type ImportJobEvent interface{ isImportJobEvent() }

type (
	// ImportJobCreated is the first event of every import job. It names material that is already stored.
	ImportJobCreated struct {
		Name       ImportJobName
		UID        UID
		Method     ImportMethod
		Protection ProtectionLevel
		MaterialID UID
		PublicKey  []byte
		BlobDigest []byte // SHA-256 of the wrapped private key
		Creator    string
		ExpireTime time.Time
	}
	// ImportJobUsed says that the wrapped key with this digest may be imported into that key, and into no other.
	ImportJobUsed struct {
		Digest  [32]byte
		KeyUID  UID
		Version Version
	}
	// ImportCompleted says that it was, and may not be again.
	ImportCompleted struct{ Digest [32]byte }
	// ImportJobExpired says that the job's expire time has come. Its key is erased after this event.
	ImportJobExpired struct{}
	// ImportJobCanceled ends the job before its time. Its key is erased after this event.
	ImportJobCanceled struct{}
	// ImportJobKeyErased says that the job's private key was removed from the material store.
	ImportJobKeyErased struct{}
)

func (ImportJobCreated) isImportJobEvent()   {}
func (ImportJobUsed) isImportJobEvent()      {}
func (ImportCompleted) isImportJobEvent()    {}
func (ImportJobExpired) isImportJobEvent()   {}
func (ImportJobCanceled) isImportJobEvent()  {}
func (ImportJobKeyErased) isImportJobEvent() {}

// DecideImportJob returns the events that the command causes in this state at the given time, none if what it asks for
// already holds, or the refusal as an *Error.
func DecideImportJob(j ImportJob, at time.Time, cmd ImportJobCommand) ([]ImportJobEvent, error) {
	switch cmd := cmd.(type) {
	case CreateImportJob:
		if j.State != ImportJobStateAbsent {
			return nil, refuse(ReasonImportJobExists, "import job %s already exists, or existed; an id is never used again, so choose another", cmd.Name)
		}
		return []ImportJobEvent{ImportJobCreated{
			Name: cmd.Name, UID: cmd.UID, Method: cmd.Method, Protection: cmd.Protection, MaterialID: cmd.MaterialID,
			Creator: cmd.Creator, ExpireTime: stored(at.Add(ImportJobLifetime)),
		}}, nil
	case UseImportJob:
		return decideUse(j, at, cmd)
	case CompleteImport:
		if j.use(cmd.Digest) < 0 || j.Imported(cmd.Digest) {
			return nil, nil
		}
		return []ImportJobEvent{ImportCompleted(cmd)}, nil
	case CancelImport:
		if j.StateAt(at) == ImportJobStateCanceled {
			return nil, nil
		}
		if err := j.Usable(cmd.Name, at); err != nil {
			return nil, err
		}
		return []ImportJobEvent{ImportJobCanceled{}}, nil
	case ExpireImportJob:
		if j.State == ImportJobStateActive && j.StateAt(at) == ImportJobStateExpired {
			return []ImportJobEvent{ImportJobExpired{}}, nil
		}
		return nil, nil
	case RecordJobErasure:
		if j.Erased || j.State != ImportJobStateExpired && j.State != ImportJobStateCanceled {
			return nil, nil
		}
		return []ImportJobEvent{ImportJobKeyErased{}}, nil
	}
	panic(fmt.Sprintf("domain: undecided import job command %T", cmd))
}

func decideUse(j ImportJob, at time.Time, c UseImportJob) ([]ImportJobEvent, error) {
	if err := j.Usable(c.Name, at); err != nil {
		return nil, err
	}
	if i := j.use(c.Digest); i >= 0 {
		if u := j.Uses[i]; u.Done || u.KeyUID != c.KeyUID || u.Version != c.Version {
			return nil, refuse(ReasonWrappedKeyUsed, "this wrapped key was sent to import job %s before, and one wrapped key is imported once only; wrap the material anew", c.Name)
		}
		return nil, nil
	}
	if len(j.Uses) >= MaxImports {
		return nil, refuse(ReasonTooManyImports, "import job %s was used %d times, which is the most; create another", c.Name, len(j.Uses))
	}
	return []ImportJobEvent{ImportJobUsed{Digest: c.Digest, KeyUID: c.KeyUID, Version: c.Version}}, nil
}

// Imported reports whether the import of the wrapped key with this digest is known to be done.
func (j ImportJob) Imported(digest [32]byte) bool {
	i := j.use(digest)
	return i >= 0 && j.Uses[i].Done
}

// use is where the use of a wrapped key stands, or -1.
func (j ImportJob) use(digest [32]byte) int {
	return slices.IndexFunc(j.Uses, func(u ImportUse) bool { return u.Digest == digest })
}

// EvolveImportJob returns j after e, which happened at. It never refuses: e already happened.
func EvolveImportJob(j ImportJob, at time.Time, e ImportJobEvent) ImportJob {
	switch e := e.(type) {
	case ImportJobCreated:
		return ImportJob{
			Name: e.Name, UID: e.UID, State: ImportJobStateActive, Method: e.Method, Protection: e.Protection, MaterialID: e.MaterialID,
			PublicKey: e.PublicKey, Creator: e.Creator, CreateTime: at, StateTime: at, ExpireTime: e.ExpireTime,
		}
	case ImportJobUsed:
		j.Uses = append(slices.Clip(j.Uses), ImportUse{Digest: e.Digest, KeyUID: e.KeyUID, Version: e.Version})
	case ImportCompleted:
		if i := j.use(e.Digest); i >= 0 {
			j.Uses = slices.Clone(j.Uses)
			j.Uses[i].Done = true
		}
	case ImportJobExpired:
		j.State, j.StateTime = ImportJobStateExpired, at
	case ImportJobCanceled:
		j.State, j.StateTime = ImportJobStateCanceled, at
	case ImportJobKeyErased:
		j.Erased = true
	}
	return j
}

// FoldImportJob replays events that happened at onto j.
func FoldImportJob(j ImportJob, at time.Time, events ...ImportJobEvent) ImportJob {
	for _, e := range events {
		j = EvolveImportJob(j, at, e)
	}
	return j
}
