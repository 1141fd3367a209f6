#ifndef SHOAL_GRAPH_EXECUTOR_H_
#define SHOAL_GRAPH_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/device.h"
#include "base/status.h"
#include "base/time.h"
#include "graph/plan.h"
#include "kernels/kernel.h"

namespace shoal::graph {

// Runs a plan, over and over, in an arena and on a stream of its own, so that
// several executors of one plan may be at work at once (the pool of a device
// runs one loop at a time, though: give each its own device).
//
// Where the host can't read the device's memory, feeds are copied there when a
// run starts and fetches back when it ends; all that callers see is the host's.
// Both ways they are copied on streams of their own: a fetch leaves while later
// steps run. Of a mixed plan, Start() runs the host's steps up to the first one
// that needs something of the device, and Finish() the others.
//
// Thread-compatible. Run() does not allocate.
class Executor {
 public:
  // `device` must outlive the executor, and so must `host`, a device "cpu" that
  // a mixed plan needs. Their pools have the plan's threads.
  // Errors: kInvalidArgument (another device or number of threads than the
  // plan's, no host), kResourceExhausted (no memory).
  static StatusOr<std::unique_ptr<Executor>> Create(
      std::shared_ptr<const Plan> plan, Device& device, Device* host = nullptr);

  ~Executor();

  const Plan& plan() const { return *plan_; }

  // Values of symbols hold until they are set again; they start at their
  // maximum. Errors: kInvalidArgument (not in [0, maximum], no such symbol).
  Status SetSymbol(int symbol, int64_t value);
  Status SetSymbol(std::string_view name, int64_t value);

  // Memory is borrowed until it is bound anew (that of feeds until Start()
  // returns, where the host can't read the device's memory and the plan is not
  // mixed); nothing is written to a feed. It
  // has the shape that the symbols give when a run starts and may be longer; it
  // must be aligned for its elements. A feed that is bound again with the same
  // `version`, other than 0, has the same contents and is not copied again.
  // Errors: kInvalidArgument (no such feed or fetch, not aligned, bound though
  // the plan says otherwise).
  Status BindFeed(int feed, const void* data, int64_t size_bytes,
                  uint64_t version = 0);
  Status BindFetch(int fetch, void* data, int64_t size_bytes);
  // The same with whole elements.
  template <typename T>
  Status BindFeed(int feed, std::span<const T> data) {
    return BindFeed(feed, data.data(), static_cast<int64_t>(data.size_bytes()));
  }
  template <typename T>
  Status BindFetch(int fetch, std::span<T> data) {
    return BindFetch(fetch, data.data(),
                     static_cast<int64_t>(data.size_bytes()));
  }

  // Start() and Finish().
  Status Run();

  // Reads the feeds and begins a run, which may be over when this returns.
  // Errors: kFailedPrecondition (a feed or fetch that is not bound or too
  // small: named, with both sizes; a run that is not finished), or what a
  // kernel says, naming the node. Nothing is running then.
  Status Start();

  // Blocks until the run is over and the fetches are there. Where the host
  // can't read the device's memory, they may be bound until then.
  // Errors: what a kernel says; the fetches are then unspecified.
  Status Finish();

  // Ends a run whose results nobody wants; its feeds may be gone. Blocks until
  // the device is done. Errors: what a kernel says.
  Status Abandon();

  // Of the last run that is finished; a fetch in the arena is overwritten by
  // the next.
  TensorView fetch(int index) const;

  // Called after each step (once it is enqueued, on a device that the host
  // does not wait for); the name and the op live as long as the plan. An
  // empty function turns it off. Costs two looks at the clock per step.
  using TraceFn = std::function<void(std::string_view node, std::string_view op,
                                     Time begin, Time end)>;
  void SetTrace(TraceFn trace, const Clock* clock);

  // Called in each run when an external fetch is there, with its number, by
  // the thread that runs it: after the last step that writes it, or in Finish()
  // where the host can't read the device's memory. An empty function turns it
  // off.
  using FetchedFn = std::function<void(int fetch)>;
  void SetFetched(FetchedFn fetched) { fetched_ = std::move(fetched); }

  // The arena, for tests; in the device's memory.
  std::span<std::byte> arena() {
    return {arena_.data(), static_cast<size_t>(arena_.size())};
  }

 private:
  struct Bound {
    void* data = nullptr;
    int64_t size_bytes = 0;
    uint64_t version = 0;
  };
  // Where a feed lies on the device, and what was copied there last.
  struct Copied {
    int64_t offset = -1;
    int64_t size_bytes = 0;
    uint64_t version = 0;
    friend bool operator==(const Copied&, const Copied&) = default;
  };
  // Where a step's views lie in views_.
  struct StepViews {
    size_t first_input = 0;
    size_t num_inputs = 0;
    size_t num_outputs = 0;
    std::vector<int> fetches = {};  // external ones that nothing writes after
  };

  // What is copied back at once, and the step after which it is complete.
  struct FetchPiece {
    size_t step = 0;
    int64_t offset = 0;  // in the host's memory
    const std::byte* from = nullptr;
    int64_t size_bytes = 0;
  };
  // Steps that are enqueued together: the device's, or the host's and its
  // copies to the device.
  struct Segment {
    size_t begin = 0;
    size_t end = 0;
    Side side = Side::kDevice;
    bool waits = false;
    // Where the device can record, what was recorded.
    std::unique_ptr<RecordedWork> recorded = nullptr;
  };

  Executor(std::shared_ptr<const Plan> plan, Device& device,
           std::unique_ptr<Stream> stream);
  Status OpenHost(Device& host);
  void LayOutSegments();
  Status Allocate();
  Status AllocateStaging();
  Status CopyConstants();
  void LayOutViews();
  void UpdateShapes();
  Status ResolveStorages();
  void Stage();
  void OrderFetches();
  void CutFetches();
  Status CopyFeeds();
  Status CopyOut(void* to, const void* from, int64_t size_bytes);
  Status CopyFetches(size_t step);
  Status WaitForCopiesIn();
  Status JoinCopiesOut();
  Status SynchronizeAll();
  int64_t BytesOf(int value) const;
  // Of a value.
  size_t StorageNumber(int value) const {
    return static_cast<size_t>(
        plan_->values()[static_cast<size_t>(value)].storage);
  }
  const Plan::Storage& StorageOf(int value) const {
    return plan_->storages()[StorageNumber(value)];
  }
  bool IsOfHost(const Plan::FetchPlace& place) const {
    return StorageOf(place.value).side == Side::kHost;
  }
  Status CheckBound(std::string_view kind, std::string_view name,
                    const Bound& bound, const Shape& shape, DType dtype) const;
  Status Continue();
  Status EnqueueSteps(const Segment& segment);
  Status RecordSteps(Segment& segment);
  Status RunStep(size_t step);
  Status RunKernel(const Plan::Step& step, const StepViews& place);

  std::shared_ptr<const Plan> plan_;
  Device& device_;
  const bool staged_;
  std::unique_ptr<Stream> stream_;  // of kernels
  // If staged_. What is copied in must be waited for before the next kernel;
  // what is copied out waits for the last one unless it has, and must be
  // joined.
  std::unique_ptr<Stream> in_stream_;
  std::unique_ptr<Stream> out_stream_;
  bool in_pending_ = false;
  bool out_waited_ = false;
  bool out_pending_ = false;
  Buffer arena_;
  Buffer constants_;
  // Of a mixed plan.
  std::unique_ptr<Stream> host_stream_;
  Buffer host_arena_;
  std::vector<Buffer> transfers_;
  std::vector<Segment> segments_;
  size_t next_segment_ = 0;  // of the run under way
  bool running_ = false;
  // Runs since shapes changed. What is the same again is recorded and then
  // begun at once, where the device can do that.
  int same_shape_runs_ = 0;
  // If staged_: feeds and fetches on the device, and the host's ends of copies.
  // Feeds lie in staging_order_ as close together as their sizes allow, those
  // that callers know a version of before the others, so that what is copied is
  // one piece. Fetches lie in the order in which steps write them, external
  // ones first.
  Buffer feeds_device_;
  Buffer feeds_host_;
  Buffer fetches_device_;
  Buffer fetches_host_;
  std::vector<size_t> staging_order_;
  std::vector<Copied> copied_;            // by feed
  std::vector<int64_t> fetch_offsets_;    // by fetch
  std::vector<size_t> fetch_order_;       // of the device's
  std::vector<size_t> fetch_steps_;       // by fetch: the last that writes it
  std::vector<FetchPiece> fetch_pieces_;  // by step
  std::vector<int64_t> symbol_values_;
  bool shapes_changed_ = true;
  bool bindings_changed_ = true;
  std::vector<Bound> feeds_;
  std::vector<Bound> fetches_;
  std::vector<Shape> shapes_;       // by value
  std::vector<std::byte*> memory_;  // by storage
  std::vector<TensorView> views_;   // of all steps, one after another
  std::vector<int> view_values_;    // the value that each shows
  std::vector<bool> view_shape_only_;
  std::vector<StepViews> step_views_;
  TraceFn trace_;
  FetchedFn fetched_;
  const Clock* clock_ = nullptr;
};

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_EXECUTOR_H_
