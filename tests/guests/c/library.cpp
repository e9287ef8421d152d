// The standard library at work: containers, algorithms, strings, streams, regex, chrono, random, shared_mutex.
#include <algorithm>
#include <atomic>
#include <complex>
#include <deque>
#include <iomanip>
#include <iostream>
#include <map>
#include <mutex>
#include <memory>
#include <numeric>
#include <random>
#include <regex>
#include <set>
#include <shared_mutex>
#include <sstream>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

int main() {
    std::mt19937_64 random(12345);
    std::map<std::string, int> counts;
    std::unordered_map<uint64_t, std::vector<int>> buckets;
    for (int i = 0; i < 5000; i++) { counts["key" + std::to_string(random() % 200)] += i; buckets[random() % 97].push_back(i); }
    uint64_t hash = 0;
    for (auto &[key, value] : counts) hash = hash * 31 + key.size() + (uint64_t)value;
    for (uint64_t i = 0; i < 97; i++) hash = hash * 33 + std::accumulate(buckets[i].begin(), buckets[i].end(), uint64_t{0});
    std::cout << "maps " << counts.size() << ' ' << std::hex << hash << std::dec << '\n';
    std::vector<double> values(3000);
    std::normal_distribution<double> normal(10, 2);
    std::uniform_real_distribution<double> uniform(0, 1);
    for (auto &v : values) v = uniform(random);
    std::sort(values.begin(), values.end(), std::greater<>());
    std::cout << std::setprecision(17) << values[0] << ' ' << values[1500] << ' ' << std::accumulate(values.begin(), values.end(), 0.0) << '\n';
    std::stable_sort(values.begin(), values.end(), [](double a, double b) { return (int)(a * 10) < (int)(b * 10); });
    std::cout << std::fixed << std::setprecision(6) << values[10] << ' ' << std::scientific << values[20] << std::defaultfloat << '\n';
    std::complex<double> z(0.1, 0.2);
    for (int i = 0; i < 20; i++) z = z * z + std::complex<double>(-0.4, 0.6);
    std::cout << z << ' ' << std::abs(z) << '\n';
    std::string text = "alpha=1; beta=22; gamma=333; delta=x";
    std::regex pair("(\\w+)=(\\d+)");
    for (std::sregex_iterator it(text.begin(), text.end(), pair), end; it != end; ++it) std::cout << (*it)[1] << ':' << (*it)[2] << ' ';
    std::cout << std::regex_replace(text, std::regex("[aeiou]"), "*") << '\n';
    std::variant<int, std::string, double> any = 3.5;
    std::visit([](auto &v) { std::cout << v << '\n'; }, any);
    std::set<std::pair<int, int>> pairs;
    std::deque<int> deque;
    for (int i = 0; i < 1000; i++) { pairs.insert({(int)(random() % 10), (int)(random() % 10)}); i & 1 ? deque.push_back(i) : deque.push_front(i); }
    std::cout << pairs.size() << ' ' << deque.front() << ' ' << deque.back() << ' ' << deque[500] << '\n';
    std::atomic<int> total{0};
    std::atomic<uint16_t> small{0};
    std::shared_mutex mutex;
    int guarded = 0;
    auto shared = std::make_shared<int>(5);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([&, t, shared] {
            for (int i = 0; i < 2000; i++) {
                total += t; small.fetch_add(3, std::memory_order_relaxed);
                if (i % 10) { std::shared_lock lock(mutex); total += guarded * 0; } else { std::unique_lock lock(mutex); guarded++; }
                auto copy = shared;
            }
        });
    for (auto &t : threads) t.join();
    std::cout << total << ' ' << small << ' ' << guarded << ' ' << shared.use_count() << '\n';
    std::ostringstream out;
    out << std::setw(8) << std::setfill('.') << 42 << std::boolalpha << true << std::showbase << std::hex << 255;
    std::istringstream in("3 4.5 word");
    int i; double d; std::string word;
    in >> i >> d >> word;
    std::cout << out.str() << ' ' << i << ' ' << d << ' ' << word << std::endl;
    return 0;
}
