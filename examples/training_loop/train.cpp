// Trains an exported training.onnx with nothing but ONNX Runtime's C++ API: the loop of train.py. JSON by nlohmann/json.
//
//   g++ -std=c++17 -O2 examples/training_loop/train.cpp -I HEADERS -L LIBRARY -lonnxruntime -o train
//   ./train FOLDER ROWS.jsonl [STEPS] [BATCH_SIZE] [LEARNING_RATE]
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <onnxruntime_cxx_api.h>

template <class T> Ort::Value tensor(std::vector<int64_t> shape, const std::vector<T>& numbers) {
    Ort::AllocatorWithDefaultOptions memory;
    auto value = Ort::Value::CreateTensor<T>(memory, shape.data(), shape.size());
    std::copy(numbers.begin(), numbers.end(), value.template GetTensorMutableData<T>());
    return value;
}

int main(int count, char** given) {
    const std::string folder = given[1];
    const int steps = count > 3 ? std::atoi(given[3]) : 6, size = count > 4 ? std::atoi(given[4]) : 3;
    const float rate = count > 5 ? std::strtof(given[5], nullptr) : 1e-3f;
    std::vector<nlohmann::json> rows;
    std::ifstream file(given[2]);
    for (std::string line; std::getline(file, line);) rows.push_back(nlohmann::json::parse(line));

    Ort::Env environment;
    Ort::Session session(environment, (folder + "/training.onnx").c_str(), Ort::SessionOptions());
    Ort::Session initial(environment, (folder + "/initial.onnx").c_str(), Ort::SessionOptions());
    const std::vector<const char*> parts{"trainable", "adam_m", "adam_v"}, wanted{"loss", "trainable_next", "adam_m_next", "adam_v_next"};
    auto state = initial.Run({}, nullptr, nullptr, 0, parts.data(), parts.size());
    Ort::AllocatorWithDefaultOptions memory;
    std::vector<std::string> names;
    for (size_t i = 0; i < session.GetInputCount(); ++i) names.push_back(session.GetInputNameAllocated(i, memory).get());
    for (int64_t step = 1; step <= steps; ++step) {
        std::vector<const char*> fed{"step", "learning_rate"};
        std::vector<Ort::Value> feeds;
        feeds.push_back(tensor<int64_t>({}, {step}));
        feeds.push_back(tensor<float>({}, {rate}));
        for (size_t i = 0; i < parts.size(); ++i) fed.push_back(parts[i]), feeds.push_back(std::move(state[i]));
        for (const char* name : {"input_ids", "attention_mask", "labels", "position_ids"}) {
            if (std::find(names.begin(), names.end(), name) == names.end()) continue;
            std::vector<int64_t> numbers;
            for (int i = 0; i < size; ++i) {
                const auto& row = rows[((step - 1) * size + i) % rows.size()];
                int64_t seen = 0;
                if (row.contains(name)) for (int64_t number : row[name]) numbers.push_back(number);
                else for (int64_t mask : row["attention_mask"]) numbers.push_back(std::max<int64_t>((seen += mask) - 1, 0));
            }
            fed.push_back(name), feeds.push_back(tensor<int64_t>({size, int64_t(numbers.size()) / size}, numbers));
        }
        auto out = session.Run({}, fed.data(), feeds.data(), feeds.size(), wanted.data(), wanted.size());
        for (size_t i = 0; i < parts.size(); ++i) state[i] = std::move(out[i + 1]);
        std::cout << nlohmann::json{{"step", step}, {"loss", *out[0].GetTensorData<float>()}} << std::endl;
    }
}
