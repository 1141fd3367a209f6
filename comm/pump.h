#ifndef SHOAL_COMM_PUMP_H_
#define SHOAL_COMM_PUMP_H_

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "base/storage.h"
#include "comm/endpoint.h"
#include "comm/node.h"

namespace shoal::comm {

// Runs one node on real time: messages from an endpoint, timers, a storage
// thread and a compute thread (both started when first used).
class Pump {
 public:
  struct Options {
    std::string transport = "auto";
    Endpoint::Options endpoint;
    // Must outlive the pump, at whose end its waits are cancelled; null:
    // CreateStorage().
    Storage* storage = nullptr;
    Duration close_within = std::chrono::seconds(2);  // to flush at the end
  };

  // Errors: those of CreateEndpoint().
  static StatusOr<std::unique_ptr<Pump>> Create(const Options& options);
  virtual ~Pump() = default;

  // Where peers reach the node; known before Run().
  virtual std::string address() const = 0;
  virtual EndpointId self() const = 0;

  // Pumps `node` on the calling thread until the node calls Stop() or another
  // thread calls Interrupt(); returns that reason (OK for an ordinary end).
  // Once per pump.
  virtual Status Run(Node& node) = 0;

  // Ends Run() from any thread.
  virtual void Interrupt(Status why) = 0;

  // Runs `task` on the node's thread soon, before OnStart() if that is still to
  // come; from any thread.
  virtual void Post(std::function<void()> task) = 0;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_PUMP_H_
