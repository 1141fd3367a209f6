#ifndef SHOAL_PS_STORAGE_ANSWER_H_
#define SHOAL_PS_STORAGE_ANSWER_H_

#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "comm/node.h"

namespace shoal::ps {

// How who holds state answers Save and Load: `work` runs on the storage thread,
// then the reply is sent, as SaveReply or empty, or the error so that the
// caller does not ask again for what storage has refused. Nothing is kept for a
// reply that can't be sent: it is asked for again. `ended` runs on the node's
// thread after the reply, whatever it is.

// `work` gives the entries of the manifest, see SaveParts().
void AnswerSave(
    comm::NodeContext& context, comm::EndpointId to, comm::Message request,
    std::function<StatusOr<std::vector<std::string>>(Storage&)> work,
    std::function<void()> ended = [] {});

// `loaded` runs on the node's thread before a good reply.
void AnswerLoad(
    comm::NodeContext& context, comm::EndpointId to, comm::Message request,
    std::function<Status(Storage&)> work, std::function<void()> loaded,
    std::function<void()> ended = [] {});

}  // namespace shoal::ps

#endif  // SHOAL_PS_STORAGE_ANSWER_H_
