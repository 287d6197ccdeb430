package core
import "fmt"
func (c *Conn) Debug() string {
 return fmt.Sprintf("state %d limit %d recv{read %d ready %d high %d fin %v final %d have %d} send{base %d next %d end %d fin %v %v %v lost %v} peerS %d peerD %d pending %x paceAt %v wants %v nudge %d/%v chk %v unsent pto %d path %+v probe %+v fb %+v remote %v local %v", c.state, c.limit, c.recv.read, c.recv.ready, c.recv.high, c.recv.fin, c.recv.final, len(c.recv.have), c.send.base, c.send.next, c.send.end, c.send.fin, c.send.finSent, c.send.finAcked, c.send.lost, c.peerStream, c.peerData, c.pending, c.paceAt, c.wants(2), c.nudges, c.nudgeAt, c.Check(), c.rec.PTOCount, c.path, c.probe, c.fallback, c.remote, c.local)
}
