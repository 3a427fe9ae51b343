package hsm

var children = map[string]func(dir string) error{}
