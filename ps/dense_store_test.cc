#include "ps/dense_store.h"

#include <cstring>
#include <memory>
#include <vector>

#include "gtest/gtest.h"

#include "ps/dense_layout.h"

namespace shoal::ps {
namespace {

// One variable of three chunks, the last one short, and a small one.
ModelSpec DenseModel(const std::string& optimizer) {
  ModelSpec model;
  model.variables = {{"deep/0/w", {5, 8000}, {Initializer::Kind::kNormal, 0.1}},
                     {"deep/0/b", {7}, {Initializer::Kind::kConstant, 0.5}}};
  model.dense_optimizer.kind = optimizer;
  model.seed = 11;
  return model;
}

std::unique_ptr<DenseStore> MakeStore(const ModelSpec& model,
                                      std::vector<DenseChunk> chunks) {
  auto made = DenseStore::Create(model, std::move(chunks));
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

TEST(DenseStoreTest, FirstValuesDoNotDependOnTheChunks) {
  const ModelSpec model = DenseModel("sgd");
  const DenseLayout layout(model);
  ASSERT_EQ(layout.chunks().size(), 4U);
  const auto store = MakeStore(model, layout.chunks());
  EXPECT_EQ(store->num_elements(), 40007);
  EXPECT_EQ(store->values(3)[6], 0.5F);
  // Cut where no chunk begins.
  const auto piece = MakeStore(
      model, {{.variable = 0, .first = 16001, .count = 1000, .offset = 16001}});
  const Buffer whole = store->Copy(layout.chunks());
  EXPECT_EQ(0, std::memcmp(piece->values(0).data(),
                           whole.As<float>().data() + 16001, 4000));
}

TEST(DenseStoreTest, EachChunkIsUpdatedByItsPartOfTheGradients) {
  const ModelSpec model = DenseModel("adam");
  const DenseLayout layout(model);
  const auto all = MakeStore(model, layout.chunks());
  std::vector<float> gradients(40007);
  for (size_t i = 0; i < gradients.size(); ++i) {
    gradients[i] = static_cast<float>(i % 97) / 97 - 0.5F;
  }
  for (int step = 0; step < 3; ++step) {
    all->Apply(layout.chunks(), gradients, 0.5);
  }
  // Every chunk alone, as another number of shards would hold it.
  size_t at = 0;
  for (size_t c = 0; c < layout.chunks().size(); ++c) {
    const auto one = MakeStore(model, {layout.chunks()[c]});
    const std::span<const float> part(gradients.data() + at,
                                      one->values(0).size());
    for (int step = 0; step < 3; ++step) {
      one->Apply(one->chunks(), part, 0.5);
    }
    EXPECT_EQ(0, std::memcmp(one->values(0).data(), all->values(c).data(),
                             part.size_bytes()));
    EXPECT_EQ(0, std::memcmp(one->state(0).data(), all->state(c).data(),
                             one->state(0).size_bytes()));
    at += part.size();
  }
}

TEST(DenseStoreTest, FlatGradientsAndValuesLieAsTheLayoutSays) {
  const ModelSpec model = DenseModel("adam");
  const DenseLayout layout(model);
  ASSERT_GT(layout.size(), 40007) << "variables are aligned";
  const auto packed = MakeStore(model, layout.chunks());
  const auto flat = MakeStore(model, layout.chunks());
  std::vector<float> gradients;
  std::vector<float> at(static_cast<size_t>(layout.size()), -1.0F);
  for (const DenseChunk& chunk : layout.chunks()) {
    for (int64_t i = 0; i < chunk.count; ++i) {
      gradients.push_back(static_cast<float>(gradients.size() % 89) / 89);
      at[static_cast<size_t>(chunk.offset + i)] = gradients.back();
    }
  }
  std::vector<float> values(at.size(), 7.0F);
  for (int step = 0; step < 3; ++step) {
    packed->Apply(layout.chunks(), gradients, 0.5);
    flat->ApplyFlat(at.data(), 0.5);
  }
  flat->CopyFlat(values.data());
  EXPECT_EQ(packed->Copy(layout.chunks()).text(),
            flat->Copy(layout.chunks()).text());
  const Buffer snapshot = packed->Copy(layout.chunks());
  const float* from = snapshot.As<float>().data();
  for (const DenseChunk& chunk : layout.chunks()) {
    EXPECT_EQ(0, std::memcmp(values.data() + chunk.offset, from,
                             static_cast<size_t>(chunk.count) * 4));
    from += chunk.count;
  }
}

TEST(DenseStoreTest, PartsOfWorkersAreWholeChunksAndEvenToOne) {
  ModelSpec model = DenseModel("adam");
  model.variables.push_back({"deep/1/w", {123456}, {}});
  const DenseLayout layout(model);
  for (const int size : {1, 2, 3, 5, 64}) {
    std::vector<int64_t> elements(static_cast<size_t>(size));
    int last = 0;
    for (size_t c = 0; c < layout.chunks().size(); ++c) {
      const int part = layout.PartOf(c, size);
      ASSERT_GE(part, last);
      ASSERT_LT(part, size);
      last = part;
      elements[static_cast<size_t>(part)] += layout.chunks()[c].count;
    }
    for (const int64_t count : elements) {
      EXPECT_LE(count, layout.size() / size + DenseLayout::kChunkElements);
      EXPECT_GE(count, layout.size() / size - DenseLayout::kChunkElements -
                           2 * DenseLayout::kAlignElements);
    }
  }
}

TEST(DenseStoreTest, ChunksComeAndGo) {
  const ModelSpec model = DenseModel("adam");
  const DenseLayout layout(model);
  const auto all = MakeStore(model, layout.chunks());
  const auto store = MakeStore(model, {});
  store->Apply({}, {}, 1);
  EXPECT_TRUE(store->Copy({}).empty());
  for (const size_t c : {3U, 0U, 2U, 1U, 0U}) {
    store->Add(layout.chunks()[c]);
  }
  EXPECT_EQ(store->num_elements(), 40007);
  EXPECT_EQ(store->Copy(layout.chunks()).text(),
            all->Copy(layout.chunks()).text());
  // Some of them, in the order of the layout whatever the order of coming.
  std::vector<float> gradients(40007);
  for (size_t i = 0; i < gradients.size(); ++i) {
    gradients[i] = static_cast<float>(i % 97) / 97 - 0.5F;
  }
  all->Apply(layout.chunks(), gradients, 1);
  const std::vector<DenseChunk> some = {layout.chunks()[1], layout.chunks()[3]};
  std::vector<float> of_some(gradients.begin() + 16384,
                             gradients.begin() + 2 * 16384);
  of_some.insert(of_some.end(), gradients.end() - some[1].count,
                 gradients.end());
  store->Apply(some, of_some, 1);
  EXPECT_EQ(store->Copy(some).text(), all->Copy(some).text());
  EXPECT_NE(store->Copy(layout.chunks()).text(),
            all->Copy(layout.chunks()).text());
  store->Remove(layout.chunks()[1]);
  store->Remove(layout.chunks()[1]);
  EXPECT_EQ(store->num_elements(), 40007 - 16384);
  EXPECT_EQ(store->Find(layout.chunks()[2]), 1U);
  store->Add(layout.chunks()[1]);
  EXPECT_NE(store->Copy(some).text(), all->Copy(some).text())
      << "it begins anew";
}

TEST(DenseStoreTest, UnknownOptimizerIsNotFound) {
  EXPECT_EQ(DenseStore::Create(DenseModel("none"), {}).status().code(),
            StatusCode::kNotFound);
}

}  // namespace
}  // namespace shoal::ps
