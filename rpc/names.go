package rpc

import (
	"fmt"
	"strings"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
)

// keyRef reads the name of a key or key version, which must be of the location that this server serves.
func (s *Server) keyRef(name string) (domain.KeyRef, error) {
	ref, err := domain.ParseKeyRef(name)
	if err != nil {
		return domain.KeyRef{}, syntax(err)
	}
	return ref, s.checkLocation(ref.Name.Location)
}

// optionalKeyRef is keyRef for a name that may be left out.
func (s *Server) optionalKeyRef(name string) (domain.KeyRef, error) {
	if name == "" {
		return domain.KeyRef{}, nil
	}
	return s.keyRef(name)
}

func (s *Server) ringName(name string) (domain.RingName, error) {
	ring, err := domain.ParseRingName(name)
	if err != nil {
		return domain.RingName{}, syntax(err)
	}
	return ring, s.checkLocation(ring.Location)
}

// location reads projects/{project}/locations/{location}; the result has only these two.
func (s *Server) location(name string) (domain.KeyName, error) {
	place, err := parseLocation(name)
	if err != nil {
		return domain.KeyName{}, syntax(err)
	}
	return place, s.checkLocation(place.Location)
}

func parseLocation(name string) (domain.KeyName, error) {
	rest, isProject := strings.CutPrefix(name, "projects/")
	project, location, isLocation := strings.Cut(rest, "/locations/")
	if !isProject || !isLocation || !domain.ValidID(project) || !domain.ValidID(location) || project == "-" || location == "-" {
		return domain.KeyName{}, &domain.Error{
			Reason: domain.ReasonBadName, Message: fmt.Sprintf("name %.400q must be projects/{project}/locations/{location}, each part 1 to 63 of a-z A-Z 0-9 _ -", name),
		}
	}
	return domain.KeyName{Project: project, Location: location}, nil
}

func (s *Server) checkLocation(location string) error {
	if location == s.cfg.Location {
		return nil
	}
	return &unrecordedError{&domain.Error{
		Reason:  domain.ReasonWrongLocation,
		Message: fmt.Sprintf("the name is of location %s, this server serves %s; send the request to a server of that location", location, s.cfg.Location),
	}}
}

// guarded is a request for a change of what exists already.
type guarded interface {
	GetName() string
	GetRequestId() string
	GetEtag() string
}

// target reads what a mutation names and guards.
func (s *Server) target(r guarded) (domain.KeyRef, commands.Mutation, error) {
	ref, err := s.keyRef(r.GetName())
	if err != nil {
		return domain.KeyRef{}, commands.Mutation{}, err
	}
	m, err := mutation(r.GetRequestId(), r.GetEtag())
	return ref, m, err
}

func mutation(requestID, etag string) (commands.Mutation, error) {
	m := commands.Mutation{Etag: etag}
	if requestID == "" {
		return m, nil
	}
	var err error
	if m.RequestID, err = domain.ParseUID(requestID); err != nil {
		return m, badField("request_id " + err.Error())
	}
	return m, nil
}
