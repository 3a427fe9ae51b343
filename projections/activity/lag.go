package activity

import "time"

// Lag is how far the log is behind the streams: the age of the oldest record that may be missing; zero if none is.
func (l *Log) Lag() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var worst time.Duration
	for _, p := range l.progress {
		worst = max(worst, p.behind())
	}
	return worst
}

// behind is the age of the newest record in the log, if there are newer ones in the stream.
func (p progress) behind() time.Duration {
	if p.head <= p.seq || p.stored.IsZero() {
		return 0
	}
	return time.Since(p.stored)
}
