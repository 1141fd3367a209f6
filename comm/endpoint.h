#ifndef SHOAL_COMM_ENDPOINT_H_
#define SHOAL_COMM_ENDPOINT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "base/time.h"
#include "comm/message.h"

namespace shoal::comm {

// What an endpoint tells the node that it belongs to.
class EndpointSink {
 public:
  virtual ~EndpointSink() = default;

  virtual void OnMessage(EndpointId from, Message message) = 0;

  // The connection to `peer` ended and what was under way to it may be lost.
  // Connect() begins a new one.
  virtual void OnPeerDown(EndpointId peer, const Status& why) = 0;

  // A Send() to `peer` was refused for want of room, and there is room again.
  virtual void OnSendable(EndpointId peer) = 0;
};

// Sends and receives whole messages for one node.
//
// Messages to one peer on one lane arrive in the order they were sent, at most
// once. One that Send() accepted is delivered, or the node's OnPeerDown() is
// called for that peer: a loss is never silent. A frame that arrived lives
// until its holder drops it, and pins the transport's memory while it does:
// what must stay is copied.
//
// Thread-compatible: it belongs to the thread that pumps the node.
class Endpoint {
 public:
  struct Options {
    EndpointId self;
    // Where to listen; the transport's own form, empty for one that it picks
    // ("tcp://127.0.0.1:0" for zmq).
    std::string listen;
    int64_t send_queue_bytes_max = int64_t{256} << 20;  // per peer
  };

  virtual ~Endpoint() = default;

  // Where peers reach this endpoint, for their Connect(): "tcp://10.0.0.1:7",
  // "shm:...", "inproc:...".
  virtual std::string address() const = 0;

  // Makes `peer` known. Never blocks: a peer that can't be reached is reported
  // by OnPeerDown(). Who receives a message from a peer may answer it without
  // this. Connecting twice to the same address is fine.
  // Errors: kInvalidArgument (not an address of this transport).
  virtual Status Connect(EndpointId peer, const std::string& address) = 0;

  // Forgets `peer`; what it sends later is dropped.
  virtual void Disconnect(EndpointId peer) = 0;

  // Queues `message`; its frames are shared, not copied. Never blocks.
  // Errors: kResourceExhausted (queue full: wait for OnSendable()),
  // kUnavailable (no such peer, or it is down), kInvalidArgument (over
  // kMessageBytesMax), kFailedPrecondition (after Close()).
  virtual Status Send(EndpointId peer, Lane lane, Message message) = 0;

  // Hands what has arrived to `sink`; waits up to `timeout` if nothing has.
  // Errors: kFailedPrecondition (after Close()).
  virtual Status Poll(EndpointSink& sink, Duration timeout) = 0;

  // Ends a Poll() that waits, or the next one. The one method that any thread
  // may call.
  virtual void Wake() = 0;

  // Flushes what Send() accepted, until `deadline`. Idempotent.
  // Errors: kDeadlineExceeded (the rest was dropped).
  virtual Status Close(Time deadline) = 0;
};

// "inproc", "shm", "zmq", or "auto": shm for peers of this host and zmq for
// the others, with an address that carries both.
// Errors: kNotFound (unknown transport, lists the known), kUnavailable (the
// address to listen on is taken; the text names it).
StatusOr<std::unique_ptr<Endpoint>> CreateEndpoint(
    const std::string& transport, const Endpoint::Options& options);

}  // namespace shoal::comm

#endif  // SHOAL_COMM_ENDPOINT_H_
