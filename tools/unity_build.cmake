# Interface packages generate many small C++ files that include the same large headers: compiled a dozen together, they
# cost less. C files define the same names and stay apart, and so do the introspection's, which specialize templates
# that files before them may have used.
set(CMAKE_UNITY_BUILD ON)
set(CMAKE_UNITY_BUILD_BATCH_SIZE 12)
cmake_language(DEFER CALL set_target_properties
  ${PROJECT_NAME}__rosidl_generator_c ${PROJECT_NAME}__rosidl_typesupport_introspection_cpp
  PROPERTIES UNITY_BUILD OFF)
