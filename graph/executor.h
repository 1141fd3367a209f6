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
//
// Thread-compatible. Run() does not allocate.
class Executor {
 public:
  // `device` must outlive the executor; its pool has the plan's threads.
  // Errors: kInvalidArgument (another device or number of threads than the
  // plan's), kResourceExhausted (no memory).
  static StatusOr<std::unique_ptr<Executor>> Create(
      std::shared_ptr<const Plan> plan, Device& device);

  ~Executor();

  const Plan& plan() const { return *plan_; }

  // Values of symbols hold until they are set again; they start at their
  // maximum. Errors: kInvalidArgument (not in [0, maximum], no such symbol).
  Status SetSymbol(int symbol, int64_t value);
  Status SetSymbol(std::string_view name, int64_t value);

  // Memory is borrowed until it is bound anew; nothing is written to a feed. It
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

  Executor(std::shared_ptr<const Plan> plan, Device& device,
           std::unique_ptr<Stream> stream);
  Status Allocate();
  Status AllocateStaging();
  Status CopyConstants();
  void LayOutViews();
  void UpdateShapes();
  Status ResolveStorages();
  void Stage();
  Status CopyFeeds();
  Status CopyFetches();
  int64_t BytesOf(int value) const;
  Status CheckBound(std::string_view kind, std::string_view name,
                    const Bound& bound, const Shape& shape, DType dtype) const;
  Status Enqueue();
  Status EnqueueSteps();
  Status RecordSteps();
  Status RunStep(size_t step);

  std::shared_ptr<const Plan> plan_;
  Device& device_;
  const bool staged_;
  std::unique_ptr<Stream> stream_;
  Buffer arena_;
  Buffer constants_;
  bool running_ = false;
  // Runs since shapes changed. What is the same again is recorded and then
  // begun at once, where the device can do that.
  int same_shape_runs_ = 0;
  std::unique_ptr<RecordedWork> recorded_;
  // If staged_: feeds and fetches on the device, and the host's ends of copies.
  // Feeds lie in staging_order_ as close together as their sizes allow, those
  // that callers know a version of before the others, so that what is copied is
  // one piece; then external fetches, then those in the arena.
  Buffer feeds_device_;
  Buffer feeds_host_;
  Buffer fetches_device_;
  Buffer fetches_host_;
  std::vector<size_t> staging_order_;
  std::vector<Copied> copied_;          // by feed
  std::vector<int64_t> fetch_offsets_;  // by fetch
  int64_t external_fetch_bytes_ = 0;
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
