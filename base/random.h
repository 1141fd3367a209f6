#ifndef SHOAL_BASE_RANDOM_H_
#define SHOAL_BASE_RANDOM_H_

#include <cstdint>
#include <string_view>

namespace shoal {

// splitmix64's finalizer (Steele, Lea, Flood: "Fast splittable pseudorandom
// number generators", OOPSLA 2014, with Stafford's mix 13): a bijection on 64
// bits in which every input bit moves every output bit.
constexpr uint64_t Mix64(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebULL;
  x ^= x >> 31;
  return x;
}

// A key for random numbers that are a function of what they are for: chain it
// as HashKey(HashKey(seed, table), id).
constexpr uint64_t HashKey(uint64_t key, uint64_t value) {
  return Mix64(key ^ (Mix64(value + 0x9e3779b97f4a7c15ULL) +
                      0x9e3779b97f4a7c15ULL + (key << 6) + (key >> 2)));
}

// The same for text (FNV-1a, then mixed); equal on every machine.
constexpr uint64_t HashText(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  }
  return Mix64(hash);
}

// A stream of random bits that is a function of its key alone: the n-th value
// is Mix64(key + n * golden ratio), so streams can be entered anywhere.
// Satisfies UniformRandomBitGenerator. Thread-compatible.
class Random {
 public:
  using result_type = uint64_t;
  explicit Random(uint64_t key) : state_(Mix64(key)) {}
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return ~uint64_t{0}; }

  uint64_t operator()() {
    state_ += 0x9e3779b97f4a7c15ULL;
    return Mix64(state_);
  }

  // In [0, n), n > 0; the bias is below n / 2^64.
  uint64_t Below(uint64_t n) {
    return static_cast<uint64_t>(
        (static_cast<unsigned __int128>((*this)()) * n) >> 64);
  }

  // In [0, 1), multiples of 2^-53.
  double Uniform() { return static_cast<double>((*this)() >> 11) * 0x1.0p-53; }

 private:
  uint64_t state_;
};

// From the system's entropy; for names of endpoints, never for training.
uint64_t EntropySeed();

}  // namespace shoal

#endif  // SHOAL_BASE_RANDOM_H_
