#ifndef SHOAL_PS_WAITING_MESSAGE_H_
#define SHOAL_PS_WAITING_MESSAGE_H_

#include "comm/message.h"

namespace shoal::ps {

// A request that is answered later.
struct WaitingMessage {
  comm::EndpointId from;
  comm::Message message;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_WAITING_MESSAGE_H_
